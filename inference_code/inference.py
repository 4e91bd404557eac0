"""The four functions that SageMaker's serving toolkit calls, for Stable Diffusion XL.

To bring another model, write another folder with these four functions and name it in the stack's
`handler`; nothing else changes. `examples/digits` is one.
"""

import os
import sys
import traceback

from answer import JSON, Answer, encode, negotiate
from device import end_process_if_broken, free_memory, is_out_of_memory
from errors import Refusal, RefusedError, answer_without_traceback
from request import ImageRequest, parse

_toolkit = sys.modules.get("sagemaker_inference.transformer")
if _toolkit is not None:
    answer_without_traceback(_toolkit.Transformer)


def model_fn(model_dir):
    """Load the pipeline as the environment variables say, once per process."""
    # Imported here, because reading and refusing a request needs no torch.
    from weights import Weights

    weights = Weights.from_environment(model_dir, os.environ)
    weights.read_ahead()
    from pipeline import load, warm_up

    model = load(weights)
    if os.environ.get("WARM_UP") == "1":
        warm_up(model)
    return model


def input_fn(body, content_type, context) -> ImageRequest | Refusal:
    """Read a request; a bad one becomes a 4xx that names each wrong field and the remedy."""
    try:
        request = parse(body, content_type)
        # Refuse an impossible Accept before the work, not after it.
        negotiate(_accepted(context), request.num_images)
        return request
    except RefusedError as error:
        return error.refusal


def predict_fn(request, model) -> Answer | Refusal:
    """Make the images; the same seed gives the same images.

    After an error the process goes on serving, unless CUDA no longer works.
    """
    if isinstance(request, Refusal):
        return request
    from pipeline import generate

    try:
        return generate(model, request)
    except RefusedError as error:
        return error.refusal
    except Exception as error:
        traceback.print_exc()
        out_of_memory = is_out_of_memory(error)
        failure = f"the model failed: {type(error).__name__}: {error}"
    # Done here, where no traceback holds the failed run's tensors any more.
    free_memory()
    end_process_if_broken()
    if not out_of_memory:
        return Refusal(500, (failure,))
    size = f" of {request.width} x {request.height}" if request.width and request.height else ""
    return Refusal(
        507,
        (
            f"out of memory for {request.num_images} image(s){size}: request a smaller size or "
            "fewer images",
        ),
    )


def output_fn(answer, accept, context):
    """The images in the accepted media type, or the refusal as JSON."""
    if isinstance(answer, Refusal):
        context.set_response_status(code=answer.status, phrase="Refused")
        return answer.body, JSON
    media_type = negotiate(accept, len(answer.images))
    return encode(answer, media_type), media_type


def _accepted(context) -> str:
    """The Accept header, or the toolkit's default, which is JSON."""
    headers = context.request_processor[0].get_request_properties()
    accept = headers.get("Accept") or headers.get("accept")
    if accept in (None, "", "*/*"):
        return os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or JSON
    return accept
