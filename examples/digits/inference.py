"""Another model for the same endpoint: reads a handwritten digit, with scikit-learn on a CPU.

    pulumi config set async-inference:handler examples/digits

It has no weights: at the start it is trained on scikit-learn's 1,797 digits, in a tenth of a
    second.
"""

import io
import json
import warnings

MAX_PIXELS = 4096 * 4096
GRID = 8
"""Side of the model's pictures; a margin of one point on each side is cut off."""
INK = 16
"""Value of a fully inked point in them."""


def model_fn(model_dir):
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    digits = load_digits()
    return SVC(gamma=0.001).fit(digits.data, digits.target)


def input_fn(body, content_type):
    """The points of a picture, white on black, or a sentence that refuses it."""
    import numpy
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(io.BytesIO(body), formats=("PNG", "JPEG"))
            if picture.width * picture.height > MAX_PIXELS:
                return f"the picture has too many pixels; at most {MAX_PIXELS} are read"
            grid = picture.convert("L").resize((GRID + 2, GRID + 2), Image.Resampling.BOX)
        except Image.DecompressionBombError:
            return f"the picture has too many pixels; at most {MAX_PIXELS} are read"
        except Exception as error:
            return f"the body is not a PNG or JPEG: {error}"
    return numpy.asarray(grid)[1:-1, 1:-1].reshape(1, -1) / 255 * INK


def predict_fn(points, model):
    if isinstance(points, str):
        return points
    return int(model.predict(points)[0])


def output_fn(prediction, accept, context):
    if isinstance(prediction, str):
        context.set_response_status(code=400, phrase="Refused")
        return json.dumps({"error": prediction}), "application/json"
    return json.dumps({"digit": prediction}), "application/json"
