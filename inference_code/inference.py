"""The four functions that SageMaker's serving toolkit calls, for Stable Diffusion XL.

To bring another model, write another folder with these four functions and name it in the stack's
`handler`; nothing else changes.
"""

import os
import sys
import traceback

from answer import JSON, Answer, encode, negotiated
from errors import Refusal, RefusedError
from request import ImageRequest, parse

DEFAULT_WEIGHTS = "stabilityai/stable-diffusion-xl-base-1.0"


def model_fn(model_dir):
    """Load the pipeline that MODEL_WEIGHTS names, once for each process."""
    # Here, since reading and refusing a request needs no torch.
    from pipeline import load

    return load(os.environ.get("MODEL_WEIGHTS", DEFAULT_WEIGHTS))


def input_fn(body, content_type) -> ImageRequest | Refusal:
    """Read a request; a bad one becomes a 4xx that names each field and what to do."""
    try:
        return parse(body, content_type)
    except RefusedError as error:
        return error.refusal


def predict_fn(request, pipeline) -> Answer | Refusal:
    """Make the images; deterministic by seed. Whatever goes wrong, the worker goes on."""
    if isinstance(request, Refusal):
        return request
    from pipeline import generate

    try:
        return generate(pipeline, request)
    except Exception as error:
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
        if not memory:
            return Refusal(500, (f"the model failed: {type(error).__name__}: {error}",))
    _free_memory()
    return Refusal(
        507,
        (
            f"out of memory for {request.num_images} image(s) of {request.width} x "
            f"{request.height}: ask for a smaller size or fewer images",
        ),
    )


def output_fn(answer, accept, context):
    """One PNG, or JSON with all images, as the request's Accept asks; a refusal as JSON."""
    if isinstance(answer, Answer):
        try:
            media_type = negotiated(accept)
            return encode(answer, media_type), media_type
        except RefusedError as error:
            answer = error.refusal
    context.set_response_status(code=answer.status, phrase="Refused")
    return answer.body, JSON


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
