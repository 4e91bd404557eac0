"""The GPU's memory and health: what fits, what an error means, and when the process must end."""

import gc
import os
import re
import sys
from typing import Any

GIB = 2**30
FP32_DECODE_BYTES_PER_PIXEL = 3 * GIB // 1024**2
"""SDXL's VAE decodes 1024 x 1024 in fp32 with 3.0 GiB, in fp16 with half of it."""
RESERVED_BYTES = 1 * GIB
"""For the CUDA context, the UNet's activations, and memory lost to fragmentation."""

_MEMORY = re.compile(r"out of memory|can't allocate|status_(\w+_)?alloc(ation)?_failed")
"""Messages of CUDA's allocator, the CPU's (a plain RuntimeError), and cuBLAS, cuDNN, cuSOLVER and
cuSPARSE."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory was short, on the GPU or the host."""
    return isinstance(error, MemoryError) or _MEMORY.search(str(error).lower()) is not None


def free_memory() -> None:
    """Free the memory of a failed run; call it when no traceback refers to its tensors any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
    except RuntimeError as error:
        # `end_process_if_broken` decides what that means.
        print(f"cannot empty the CUDA cache: {error}", file=sys.stderr)


def end_process_if_broken() -> None:
    """End the process when CUDA no longer works, so that the model server replaces it.

    After most CUDA errors, every later operation of the process fails, and `/ping` does not show
    it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    try:
        torch.ones(2, device="cuda").sum().item()
    except Exception as error:
        if is_out_of_memory(error):
            return
        print(f"CUDA no longer works, ending the process: {error}", file=sys.stderr, flush=True)
        # Not sys.exit, because the toolkit would catch it and CUDA's clean-up can hang.
        os._exit(1)


def weight_bytes(*modules: Any) -> int:
    """Bytes of the parameters and buffers of modules; shared ones count once."""
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())


def pixels_that_fit(memory_bytes: int, weights_bytes: int, *, fp32_decode: bool) -> int:
    """Pixels of the largest image that can be decoded in the memory that the weights leave free.

    Images are decoded one by one.
    """
    per_pixel = FP32_DECODE_BYTES_PER_PIXEL // (1 if fp32_decode else 2)
    return max(0, memory_bytes - weights_bytes - RESERVED_BYTES) // per_pixel
