"""A random SDXL of a few MB, made from configurations: the real architecture, nothing to download.

It runs the very code path of the real weights in a second on a CPU; its images are noise.
"""

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

HIDDEN_SIZE = 32
ADDITION_TIME_EMBED_DIM = 8
MAX_TOKENS = 77
WEIGHTS_SEED = 0


def tiny_pipeline() -> StableDiffusionXLPipeline:
    """The pipeline; every call gives the same weights."""
    tokenizer = _byte_level_tokenizer()
    state = torch.random.get_rng_state()
    torch.manual_seed(WEIGHTS_SEED)
    try:
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN_SIZE,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=HIDDEN_SIZE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return StableDiffusionXLPipeline(
            text_encoder=CLIPTextModel(text).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(
                block_out_channels=(32, 64),
                layers_per_block=1,
                sample_size=32,
                in_channels=4,
                out_channels=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=(2, 4),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=ADDITION_TIME_EMBED_DIM,
                transformer_layers_per_block=(1, 1),
                projection_class_embeddings_input_dim=6 * ADDITION_TIME_EMBED_DIM + HIDDEN_SIZE,
                cross_attention_dim=2 * HIDDEN_SIZE,
            ).eval(),
            vae=AutoencoderKL(
                block_out_channels=(32, 64, 64, 64),
                in_channels=3,
                out_channels=3,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                sample_size=64,
            ).eval(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            add_watermarker=False,
        )
    finally:
        torch.random.set_rng_state(state)


def _byte_level_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with bytes for words: no vocabulary to download."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(vocabulary), str(merges), model_max_length=MAX_TOKENS, pad_token=words[-1]
        )
