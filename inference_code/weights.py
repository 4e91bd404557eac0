"""Finds the weights, and reads them from the disk while Python is still importing."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_WEIGHTS = "stabilityai/stable-diffusion-xl-base-1.0"
TINY = Path(__file__).resolve().parent / "tiny"
READ_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Weights:
    """A base and optional parts; each is a folder or a Hugging Face id (`id@revision`)."""

    name: str
    base: str
    refiner: str | None = None
    vae: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    loras: Mapping[str, Path] = field(default_factory=dict)
    """LoRA weights that a request may use, by name."""
    safety_checker: str | None = None
    watermark: bool = False

    @classmethod
    def from_environment(cls, model_dir: str, environment: Mapping[str, str]) -> "Weights":
        """The weights from the environment variables MODEL_... and WATERMARK.

        MODEL_WEIGHTS is a folder, a Hugging Face id or `tiny`. The default is the weights in the
        model archive, or else SDXL from the hub. The other variables may name folders in the
        weights.

        Raises:
            ValueError: MODEL_LORAS is not a folder with `.safetensors` files.
        """
        packed = (Path(model_dir) / "model_index.json").exists()
        name = environment.get("MODEL_WEIGHTS") or (model_dir if packed else DEFAULT_WEIGHTS)
        base = str(TINY) if name == "tiny" else name

        def inside(place: str | None) -> str | None:
            within = Path(base) / (place or "")
            return str(within) if place and within.exists() else place

        return cls(
            name=name,
            base=base,
            refiner=inside(environment.get("MODEL_REFINER") or None),
            vae=inside(environment.get("MODEL_VAE") or None),
            lora=inside(environment.get("MODEL_LORA") or None),
            lora_scale=float(environment.get("MODEL_LORA_SCALE") or 1.0),
            loras=_by_name(inside(environment.get("MODEL_LORAS") or None)),
            safety_checker=inside(environment.get("MODEL_SAFETY_CHECKER") or None),
            watermark=environment.get("WATERMARK") == "1",
        )

    def read_ahead(self) -> None:
        """Start reading local weights into the page cache, while imports use the CPU for seconds.

        safetensors maps the files, so it neither reads nor copies what is in the page cache.
        """
        folders = [Path(place) for place in (self.base, self.refiner, self.vae) if place]
        files = [file for folder in folders if folder.is_dir() for file in _loaded_files(folder)]
        threading.Thread(target=_read, args=(files,), daemon=True).start()


def hub_id(place: str) -> tuple[str, str | None]:
    """A Hugging Face id and its revision, from `org/name@revision`."""
    name, _, revision = place.partition("@")
    return name, revision or None


def half_precision(folder: Path) -> bool:
    """Whether a folder has weights of the variant fp16."""
    # Not in deeper folders: a refiner there has a separate variant.
    return any(folder.glob("*/*.fp16.safetensors"))


def check_layout(place: str) -> None:
    """Refuse weights that diffusers cannot load, and say why.

    Raises:
        ValueError: it is a single-file checkpoint, or a folder without model_index.json.
    """
    path = Path(place)
    convert = (
        "convert it with StableDiffusionXLPipeline.from_single_file(...).save_pretrained(folder) "
        "and publish that folder"
    )
    if path.is_file():
        raise ValueError(f"weights {place}: a single-file checkpoint; {convert}")
    if not path.is_dir() or (path / "model_index.json").exists():
        return
    deeper = sorted(file.parent.name for file in path.glob("*/model_index.json"))
    if deeper:
        raise ValueError(
            f"weights {place}: the model is one level deeper, in {', '.join(deeper)}; "
            "publish that folder itself"
        )
    if any(path.glob("*.safetensors")):
        raise ValueError(f"weights {place}: holds a single-file checkpoint; {convert}")
    raise ValueError(f"weights {place}: no model_index.json; publish a folder of diffusers' layout")


def _by_name(place: str | None) -> dict[str, Path]:
    if place is None:
        return {}
    found = {file.stem: file for file in sorted(Path(place).glob("*.safetensors"))}
    if not found:
        raise ValueError(f"MODEL_LORAS = {place!r}: must be a folder with .safetensors files")
    return found


def _loaded_files(folder: Path) -> list[Path]:
    # A separate VAE has no subfolders.
    files = sorted(folder.glob("*/*.safetensors")) or sorted(folder.glob("*.safetensors"))
    return [file for file in files if ".fp16." in file.name] or files


def _read(files: list[Path]) -> None:
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(READ_BYTES):
                pass
