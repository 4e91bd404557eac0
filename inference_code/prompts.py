"""Prompts of any length for CLIP's encoders, which read 77 tokens at a time."""

from inspect import signature
from typing import Any

import torch
from errors import RefusedError


def prompt_arguments(pipeline: Any, prompt: str, negative_prompt: str) -> dict[str, Any]:
    """A pipeline's arguments for two prompts: texts, or embeddings if a prompt is too long.

    Long prompts are cut into chunks of the encoder's window. Each chunk is encoded separately, and
    the embeddings are concatenated. The pooled embedding is the first chunk's. Other families than
    SDXL leave long prompts to diffusers.

    Raises:
        RefusedError: 400, the model takes no negative prompt.
    """
    if not type(pipeline).__name__.startswith("StableDiffusionXL"):
        if not negative_prompt:
            return {"prompt": prompt}
        if "negative_prompt" not in signature(pipeline.__call__).parameters:
            raise RefusedError(400, "negative_prompt: not supported by this endpoint's model")
        return {"prompt": prompt, "negative_prompt": negative_prompt}
    encoders = [
        (tokenizer, encoder)
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        if tokenizer is not None
    ]
    # Both prompts must have equally many chunks.
    count = max(
        len(_chunks(tokenizer, text))
        for tokenizer, _ in encoders
        for text in (prompt, negative_prompt)
    )
    if count == 1:
        return {"prompt": prompt, "negative_prompt": negative_prompt or None}
    embeds, pooled = _encoded(encoders, prompt, count)
    if negative_prompt or not pipeline.config.get("force_zeros_for_empty_prompt", True):
        negative_embeds, negative_pooled = _encoded(encoders, negative_prompt, count)
    else:
        negative_embeds, negative_pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": negative_embeds,
        "negative_pooled_prompt_embeds": negative_pooled,
    }


def _chunks(tokenizer: Any, text: str) -> list[list[int]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    # The start and end tokens take two places.
    window = tokenizer.model_max_length - 2
    return [ids[at : at + window] for at in range(0, len(ids), window)] or [[]]


def _encoded(encoders: list[Any], text: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The embeddings of both encoders side by side, and the second's pooled one."""
    by_encoder, pooled = [], torch.empty(0)
    for tokenizer, encoder in encoders:
        chunks = _chunks(tokenizer, text)
        rows = []
        for chunk in chunks + [[]] * (count - len(chunks)):
            ids = [tokenizer.bos_token_id, *chunk, tokenizer.eos_token_id]
            rows.append(ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids)))
        found = encoder(torch.tensor(rows, device=encoder.device), output_hidden_states=True)
        # SDXL was trained on the last layer but one.
        by_encoder.append(found.hidden_states[-2].flatten(0, 1)[None])
        if found[0].ndim == 2:
            pooled = found[0][:1]
    return torch.cat(by_encoder, dim=-1), pooled
