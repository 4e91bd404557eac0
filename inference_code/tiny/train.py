"""Trains the tiny SDXL on scikit-learn's 1,797 handwritten digits: minutes on one core.

    python inference_code/tiny/train.py

It has every part of SDXL (two text encoders, micro-conditioned UNet, VAE, Euler scheduler), so that
a prompt takes the same path; only the sizes are small. The VAE is trained first, then the text
encoders, then the UNet. The same seed on the same machine gives the same weights.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits
from torch.nn import functional
from tqdm import trange
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

FOLDER = Path(__file__).resolve().parent
IMAGE_PIXELS = 64
HIDDEN_SIZE = 32
ADDITION_TIME_EMBED_DIM = 8
MAX_TOKENS = 32
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "{word}",
    "{digit}",
    "a {word}",
    "a {digit}",
    "an {word}",
    "the digit {word}",
    "the digit {digit}",
    "the number {word}",
    "the number {digit}",
    "a handwritten {word}",
    "a picture of a {word}",
    "a picture of the digit {digit}",
)
PEAK_RATE = 1.5e-3
UNCONDITIONAL_SHARE = 0.1
"""Share of captions that are replaced by zeros, for classifier-free guidance."""
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--output", type=Path, default=FOLDER)
    options = parser.parse_args()
    # Several threads do not make such a small model faster, and make it much slower when other
    # processes use the cores.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    images, labels = digits()
    vae = trained_vae(images, options.vae_steps)
    pipeline = trained_pipeline(vae, images, labels, options.steps)
    # Half precision: half the bytes, and no visible difference.
    pipeline.to(dtype=torch.float16).save_pretrained(options.output)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 3, 64, 64] in [-1, 1] with a margin and sharp strokes, and their digits."""
    found = load_digits()
    small = functional.pad(torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, (1,) * 4)
    large = functional.interpolate(small, size=(IMAGE_PIXELS,) * 2, mode="bicubic")
    strokes = torch.sigmoid(12 * (large - 0.45))
    return (strokes * 2 - 1).expand(-1, 3, -1, -1), torch.tensor(found.target)


def trained_vae(images: torch.Tensor, steps: int, batch: int = 8) -> AutoencoderKL:
    """An autoencoder with SDXL's factor of 8 between pixels and latents."""
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 32, 64),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        force_upcast=False,  # SDXL's VAE overflows in half precision; this one does not
        sample_size=IMAGE_PIXELS,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=0.1
    )
    progress = trange(steps, desc="VAE")
    for _ in progress:
        target = images[torch.randint(len(images), (batch,))]
        posterior = vae.encode(target).latent_dist
        reconstructed = vae.decode(posterior.sample()).sample
        loss = functional.l1_loss(reconstructed, target) + 1e-4 * posterior.kl().mean() / 256
        _descend(loss, optimizer, vae.parameters())
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return vae.eval().requires_grad_(False)


def trained_pipeline(
    vae: AutoencoderKL,
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    batch: int = 16,
) -> StableDiffusionXLPipeline:
    """A pipeline whose text encoders and UNet are trained on the captions and digits."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist(), scaling_factor=1.0)
    latents = (latents - mean[:, None, None]) / std[:, None, None]

    tokenizer = byte_level_tokenizer()
    pipeline = untrained_pipeline(vae, tokenizer)
    captions, digit_of = all_captions(tokenizer)
    train_text_encoders(pipeline, captions, digit_of)
    with torch.no_grad():
        embeddings, pooled = encoded(pipeline, captions)
    of_digit = [torch.nonzero(digit_of == digit)[:, 0] for digit in range(10)]
    parameters = list(pipeline.unet.train().parameters())
    average = EMAModel(parameters, decay=0.995)
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1
    )
    noising = DDPMScheduler(**NOISE)
    time_ids = torch.tensor([[IMAGE_PIXELS, IMAGE_PIXELS, 0, 0, IMAGE_PIXELS, IMAGE_PIXELS]])
    progress = trange(steps, desc="UNet")
    for _ in progress:
        chosen = torch.randint(len(latents), (batch,))
        of_chosen = [of_digit[digit] for digit in labels[chosen].tolist()]
        caption = torch.stack([them[torch.randint(len(them), ())] for them in of_chosen])
        kept = (torch.rand(batch) >= UNCONDITIONAL_SHARE).float()
        noise = torch.randn(batch, *latents.shape[1:])
        timesteps = torch.randint(1000, (batch,))
        predicted = pipeline.unet(
            noising.add_noise(latents[chosen], noise, timesteps),
            timesteps,
            encoder_hidden_states=embeddings[caption] * kept[:, None, None],
            added_cond_kwargs={
                "text_embeds": pooled[caption] * kept[:, None],
                "time_ids": time_ids.expand(batch, -1),
            },
        ).sample
        loss = functional.mse_loss(predicted, noise)
        _descend(loss, optimizer, parameters)
        schedule.step()
        average.step(parameters)
        progress.set_postfix(loss=f"{loss.item():.3f}")
    average.copy_to(parameters)
    pipeline.unet.eval()
    return pipeline


def train_text_encoders(
    pipeline: StableDiffusionXLPipeline,
    captions: torch.Tensor,
    digit_of: torch.Tensor,
    steps: int = 100,
) -> None:
    """Train the text encoders, as CLIP's are trained before SDXL's UNet.

    They learn to classify the digit from the pooled embedding and from the UNet's input.
    """
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    tell_pooled, tell_layer = torch.nn.Linear(HIDDEN_SIZE, 10), torch.nn.Linear(2 * HIDDEN_SIZE, 10)
    trained = (*encoders, tell_pooled, tell_layer)
    parameters = [parameter for part in trained for parameter in part.train().parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    end = (captions == pipeline.tokenizer.eos_token_id).int().argmax(dim=1)
    progress = trange(steps, desc="text encoders")
    for _ in progress:
        embeddings, pooled = encoded(pipeline, captions)
        at_end = embeddings[torch.arange(len(captions)), end]
        loss = functional.cross_entropy(tell_pooled(pooled), digit_of)
        loss = loss + functional.cross_entropy(tell_layer(at_end), digit_of)
        _descend(loss, optimizer, parameters)
        progress.set_postfix(loss=f"{loss.item():.3f}")
    for encoder in encoders:
        encoder.eval().requires_grad_(False)


def encoded(
    pipeline: StableDiffusionXLPipeline, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt's embedding in SDXL: both encoders' last layer but one, and the second's pooling."""
    first = pipeline.text_encoder(tokens, output_hidden_states=True)
    second = pipeline.text_encoder_2(tokens, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds


def all_captions(tokenizer: CLIPTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Every caption of every digit as tokens, and the digits."""
    texts = [
        (caption.format(word=word, digit=digit), digit)
        for digit, word in enumerate(WORDS)
        for caption in CAPTIONS
    ]
    tokens = tokenizer(
        [text for text, _ in texts],
        padding="max_length",
        max_length=MAX_TOKENS,
        return_tensors="pt",
    ).input_ids
    return tokens, torch.tensor([digit for _, digit in texts])


def untrained_pipeline(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=HIDDEN_SIZE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return StableDiffusionXLPipeline(
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=IMAGE_PIXELS // 8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1),
            norm_num_groups=16,
            cross_attention_dim=2 * HIDDEN_SIZE,
            addition_embed_type="text_time",
            addition_time_embed_dim=ADDITION_TIME_EMBED_DIM,
            projection_class_embeddings_input_dim=6 * ADDITION_TIME_EMBED_DIM + HIDDEN_SIZE,
        ),
        vae=vae,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def byte_level_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with bytes as words, so that there is no vocabulary to download."""
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


def _descend(loss, optimizer, parameters) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
