"""A request is read or refused with a sentence for each field; no torch is needed for that."""

import base64
import importlib
import io
import json
import random
import struct
import sys
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.requests import bomb, malformed, picture


class Context:
    """What a model server lets a handler see and set."""

    def __init__(self, accept: str = "image/png") -> None:
        self.status = 200
        self.headers = {"Accept": accept}
        self.request_processor = [self]

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code


@pytest.fixture
def handler():
    return importlib.import_module("inference")


def refusal(handler, body, content_type="application/json"):
    """(status, problems) of a refused request, through all functions of the contract."""
    context = Context()
    request = handler.input_fn(body, content_type, context)
    answer, media_type = handler.output_fn(handler.predict_fn(request, None), "image/png", context)
    assert media_type == "application/json"
    assert "torch" not in sys.modules or context.status >= 400
    return context.status, json.loads(answer)["problems"]


def test_a_prompt_alone_is_enough(handler):
    request = handler.input_fn('{"prompt": "a lighthouse"}', "application/json", Context())

    assert (request.prompt, request.num_images) == ("a lighthouse", 1)
    assert request.size((1024, 1024)) == (1024, 1024), "the model's own size"


def test_a_bare_text_is_a_prompt(handler):
    assert handler.input_fn(b"a lighthouse\n", "text/plain", Context()).prompt == "a lighthouse"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "prompt: is required"),
        ({"prompt": ""}, "prompt = '': string should have at least 1 character"),
        ({"prompt": 7}, "prompt = 7: input should be a valid string"),
        ({"prompt": "x" * 4001}, "at most 4000 characters"),
        ({"prompt": "x", "width": 65}, "width = 65: input should be a multiple of 8"),
        ({"prompt": "x", "height": 8}, "height = 8: input should be greater than or equal to 64"),
        ({"prompt": "x", "steps": 10_000}, "steps = 10000: input should be less than or equal"),
        ({"prompt": "x", "steps": True}, "steps = True: input should be a valid integer"),
        ({"prompt": "x", "num_images": 9}, "num_images = 9: input should be less than or equal"),
        ({"prompt": "x", "seed": -1}, "seed = -1: input should be greater than or equal to 0"),
        ({"prompt": "x", "guidance_scale": "7"}, "guidance_scale = '7'"),
        ({"prompt": "x", "colour": "blue"}, "colour: no such field"),
        ({"prompt": "x", "width": 4096, "height": 4096}, "pixels"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(handler, fields, sentence):
    status, problems = refusal(handler, json.dumps(fields))

    assert status == 400
    assert any(sentence in problem for problem in problems), problems


def test_every_wrong_field_is_in_one_answer(handler):
    _, problems = refusal(handler, '{"width": 65, "steps": 0, "colour": 1}')

    assert {problem.split(" ")[0].rstrip(":") for problem in problems} == {
        "prompt",
        "width",
        "steps",
        "colour",
    }


@pytest.mark.parametrize(
    ("body", "content_type", "status", "sentence"),
    [
        (b"{", "application/json", 400, "the body is not valid JSON"),
        (b"[]", "application/json", 400, "the body must be a JSON object"),
        (b"\xff\xfe", "application/json", 400, "the body is not UTF-8"),
        (b"[" * 100_000, "application/json", 400, "the body is not valid JSON"),
        (b"x" * 64_000_001, "text/plain", 413, "at most 64000000"),
        (b"<prompt/>", "application/xml", 415, "must be application/json or text/plain"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(handler, body, content_type, status, sentence):
    found, problems = refusal(handler, body, content_type)

    assert found == status
    assert sentence in problems[0]


def test_an_unexpected_error_is_a_sentence_without_a_traceback(handler, monkeypatch, capsys):
    def broken(model, request):
        raise RuntimeError("the GPU fell off the bus")

    monkeypatch.setitem(sys.modules, "pipeline", SimpleNamespace(generate=broken))
    context = Context()

    request = handler.input_fn('{"prompt": "x"}', "application/json", Context())
    answer, _ = handler.output_fn(handler.predict_fn(request, None), "image/png", context)

    assert context.status == 500
    assert json.loads(answer)["error"] == (
        "the model failed: RuntimeError: the GPU fell off the bus"
    )
    assert "Traceback" in capsys.readouterr().err, "the log has it"


def test_out_of_memory_says_what_to_ask_for_instead(handler, monkeypatch, capsys):
    def hungry(model, request):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setitem(sys.modules, "pipeline", SimpleNamespace(generate=hungry))
    context = Context()

    request = handler.input_fn('{"prompt": "x"}', "application/json", Context())
    answer, _ = handler.output_fn(handler.predict_fn(request, None), "image/png", context)

    assert context.status == 507
    assert "smaller size or fewer images" in json.loads(answer)["error"]
    capsys.readouterr()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["prompt", "steps", "width", "seed", "num_images", "x"]), json_values
        ).map(lambda fields: json.dumps(fields).encode()),
    )
)
def test_no_body_whatever_escapes_as_an_exception(body):
    handler = importlib.import_module("inference")

    request = handler.input_fn(body, "application/json", Context())

    assert type(request).__name__ in ("ImageRequest", "Refusal")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"image": "no base64!"}, "image = 'no base64!': is not valid base64"),
        ({"image": "https://host/x.png"}, "is a URL, and URLs are not fetched; send the picture"),
        ({"image": 7}, "image = 7: must be a PNG, JPEG, WEBP picture in base64"),
        ({"image": "aGVsbG8="}, "is not a picture in a format of PNG, JPEG, WEBP"),
        ({"image": picture(form="GIF")}, "is not a picture in a format of PNG, JPEG, WEBP"),
        ({"image": picture()[:64]}, "cannot be decoded: "),
        ({"image": bomb()}, "has too many pixels; at most 16777216 are read"),
        ({"image": bomb(9_000, 9_000)}, "has too many pixels; at most 16777216 are read"),
        ({"image": picture(), "mask_image": bomb()}, "mask_image = "),
        ({"mask_image": picture()}, "mask_image: needs image"),
        ({"strength": 0.5}, "strength: needs image"),
        ({"image": picture(), "strength": 0}, "strength = 0: input should be greater than 0"),
        ({"image": picture(), "strength": 0.01}, "leaves none of 30 steps"),
        ({"image": picture(), "refine": 0.2}, "refine: cannot be combined with image"),
        ({"scheduler": "ancestral"}, "scheduler = 'ancestral': input should be 'ddim'"),
        ({"preset": "fast"}, "preset = 'fast': input should be 'lightning', 'turbo', 'hyper'"),
        ({"loras": ["pixel"]}, "loras = ['pixel']: input should be a valid dictionary"),
        ({"loras": {"pixel": 9}}, "input should be less than or equal to 2"),
        ({"loras": dict.fromkeys("abcde", 1)}, "at most 4 items"),
    ],
)
def test_a_picture_is_refused_by_what_is_wrong_with_it(handler, fields, sentence):
    status, problems = refusal(handler, json.dumps({"prompt": "x", **fields}))

    assert status == 400
    assert any(sentence in problem for problem in problems), problems
    assert max(map(len, problems)) < 300, "a message holds no picture"


def test_a_picture_gives_its_size_and_a_data_url_is_one(handler):
    fields = {"prompt": "x", "image": f"data:image/jpeg;base64,{picture(203, 99, 'JPEG')}"}

    request = handler.input_fn(json.dumps(fields), "application/json", Context())

    assert request.size((1024, 1024)) == (200, 96), "multiples of 8"


@pytest.mark.parametrize(
    ("accept", "images", "media_type"),
    [
        ("image/png", 1, "image/png"),
        ("image/*", 1, "image/png"),
        ("image/jpeg;q=0.5, image/webp", 1, "image/webp"),
        ("application/json;q=0.2, image/jpeg;q=0.9", 1, "image/jpeg"),
        ("text/html, application/json;q=0.1", 1, "application/json"),
        ("application/zip", 1, "application/zip"),
        ("*/*", 3, "application/zip"),
        ("image/png, application/json;q=0.5", 3, "application/json"),
        ("application/octet-stream", 3, "application/zip"),
    ],
)
def test_the_most_wanted_type_that_can_be_made_is_made(handler, accept, images, media_type):
    assert importlib.import_module("answer").negotiate(accept, images) == media_type


@pytest.mark.parametrize(
    ("accept", "images", "sentence"),
    [
        ("text/html", 1, "1 image comes as image/png, image/jpeg"),
        ("image/png;q=0", 1, "1 image comes as"),
        ("image/png", 2, "2 images come as application/zip, application/json"),
        ("image/png;q=high", 1, "1 image comes as"),
        ("," * 1_000_000, 1, "1 image comes as"),
    ],
)
def test_what_cannot_be_accepted_is_refused_before_the_work(handler, accept, images, sentence):
    body = json.dumps({"prompt": "x", "num_images": images})

    refused = handler.input_fn(body, "application/json", Context(accept))

    assert refused.status == 406
    assert sentence in refused.problems[0]
    assert len(refused.problems[0]) < 300


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({}, (30, 5.0, None, None)),
        ({"preset": "lightning"}, (4, 0.0, "euler", None)),
        ({"preset": "lightning", "steps": 8, "guidance_scale": 1.5}, (8, 1.5, "euler", None)),
        ({"preset": "turbo"}, (1, 0.0, None, None)),
        ({"preset": "hyper"}, (4, 0.0, "ddim", None)),
        ({"preset": "hyper", "steps": 1}, (1, 0.0, "lcm", [800])),
        ({"preset": "lcm", "scheduler": "euler"}, (4, 1.0, "euler", None)),
    ],
)
def test_a_preset_fills_in_what_is_absent(handler, fields, made):
    request = asked(handler, **fields)

    assert made == (request.steps, request.guidance_scale, request.scheduler, request.timesteps)


def test_the_environment_names_a_preset_for_requests_that_name_none(monkeypatch):
    monkeypatch.setenv("PRESET", "lightning")
    handler = importlib.import_module("inference")

    assert asked(handler).steps == 4
    assert asked(handler, preset="turbo").steps == 1


def test_an_unknown_preset_in_the_environment_names_its_variable(monkeypatch):
    monkeypatch.setenv("PRESET", "fast")

    with pytest.raises(ValueError, match="variable PRESET = 'fast': must be one of lightning"):
        importlib.import_module("request")


def test_limits_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MAX_STEPS", "4")
    handler = importlib.import_module("inference")

    _, problems = refusal(handler, '{"prompt": "x", "steps": 5}')

    assert problems == ["steps = 5: input should be less than or equal to 4"]


def test_a_limit_that_is_no_number_names_its_variable(monkeypatch):
    monkeypatch.setenv("MAX_STEPS", "many")

    with pytest.raises(ValueError, match="variable MAX_STEPS = 'many': must be a whole number"):
        importlib.import_module("request")


def test_four_hundred_malformed_requests_get_a_message_each_and_leave_no_memory(handler):
    requests = malformed()
    assert len(requests) >= 400

    for body, content_type in requests:
        status, problems = refusal(handler, body, content_type)

        assert 400 <= status < 500
        assert problems
        assert all(0 < len(problem) < 700 for problem in problems), problems[0][:900]
    tracemalloc.start()
    try:
        for body, content_type in requests[::5]:
            refusal(handler, body, content_type)
        left_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert left_bytes < 2_000_000
    assert peak_bytes < 200_000_000, "no picture was decoded"


def asked(handler, **fields):
    return handler.input_fn(json.dumps({"prompt": "x"} | fields), "application/json", Context())


def test_a_photo_without_a_size_is_scaled_to_the_models_area(handler):
    request = asked(handler, image=picture(4000, 3000, "JPEG"))

    width, height = request.size((1024, 1024))

    assert 0.95 * 1024**2 < width * height <= 1024**2
    assert width / height == pytest.approx(4 / 3, rel=0.02)


def test_one_side_given_takes_the_other_from_the_picture(handler):
    assert asked(handler, image=picture(4000, 3000, "JPEG"), width=800).size((64, 64)) == (800, 600)


def test_grey_of_sixteen_bits_keeps_its_tones(handler):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("I;16", (64, 64), 128 * 256).save(buffer, "PNG")

    read = asked(handler, image=base64.b64encode(buffer.getvalue()).decode()).image

    assert (read.mode, read.getpixel((0, 0))) == ("L", 128)


@pytest.mark.parametrize(
    "written",
    [
        lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: f"DATA:image/png;base64,{text}",
    ],
    ids=["line breaks", "URL-safe", "DATA:"],
)
def test_base64_is_read_as_others_write_it(handler, written):
    assert asked(handler, image=written(picture(72, 64))).image.size == (72, 64)


def test_null_is_as_if_the_field_were_absent(handler):
    request = asked(handler, seed=None, width=None, steps=None)

    assert (type(request.seed), request.steps) == (int, 30)


def test_a_refusal_of_countless_fields_is_short(handler):
    fields = {f"\U0001f600{number}" * 20: 1 for number in range(100_000)}
    context = Context()

    refused = handler.input_fn(json.dumps(fields), "application/json", context)
    body, _ = handler.output_fn(refused, "image/png", context)

    assert context.status == 400
    assert len(body) < 64_000
    assert "problems more" in json.loads(body)["problems"][-1]


def test_broken_exif_is_a_sentence(handler, monkeypatch):
    from PIL import ImageOps

    def broken(_picture):
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)

    status, problems = refusal(handler, json.dumps({"prompt": "x", "image": picture()}))

    assert (status, "EXIF" in problems[0]) == (400, True)


def test_the_servers_default_accept_is_checked_before_the_work(handler, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "image/png")

    refused = handler.input_fn(
        '{"prompt": "x", "num_images": 2}', "application/json", Context(accept="")
    )

    assert refused.status == 406


MUTATED = 20_000


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_no_mutated_picture_escapes_as_an_exception(form):
    """Through the function that reads pictures: a whole request would say the same, slowly."""
    request = importlib.import_module("request")
    original = base64.b64decode(picture(8, 8, form))
    chance = random.Random(1)

    def read(data: bytes) -> str:
        try:
            return request._picture(base64.b64encode(data).decode()).mode
        except ValueError as error:
            return str(error)

    answers = {read(original)}
    for _ in range(MUTATED // 3 + 1):
        changed = bytearray(original)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(changed))
            how = chance.random()
            if how < 0.6:
                changed[at] = chance.randrange(256)
            elif how < 0.8:
                changed.insert(at, chance.randrange(256))
            elif how < 0.9:
                del changed[at]
            else:
                # Sizes and lengths are where decoders trust a file most.
                changed[at : at + 4] = b"\xff\xff\xff\xff"
        answers.add(read(bytes(changed)))

    assert {"RGB"} < answers
    assert max(map(len, answers)) < 4_000


def test_a_folder_that_is_no_model_says_what_to_do(tmp_path):
    weights = importlib.import_module("weights")
    (tmp_path / "sdxl").mkdir()
    (tmp_path / "sdxl" / "model_index.json").write_text("{}")
    (tmp_path / "single").mkdir()
    checkpoint = tmp_path / "single" / "sdxl.safetensors"
    checkpoint.write_bytes(b"")

    with pytest.raises(ValueError, match="one level deeper, in sdxl"):
        weights.check_layout(str(tmp_path))
    for place in (checkpoint, checkpoint.parent):
        with pytest.raises(ValueError, match="single-file checkpoint; convert it"):
            weights.check_layout(str(place))


def test_a_plain_base_beside_a_half_precision_refiner_is_plain(tmp_path):
    weights = importlib.import_module("weights")
    for name in ("unet/model.safetensors", "refiner/unet/model.fp16.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")

    assert not weights.half_precision(tmp_path)
    assert weights.half_precision(tmp_path / "refiner")
