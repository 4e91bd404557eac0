"""A request is read or refused with a sentence for each field; no torch is needed for that."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


class Context:
    """What a model server lets a handler set."""

    status = 200

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code


@pytest.fixture
def handler():
    return importlib.import_module("inference")


def refusal(handler, body, content_type="application/json"):
    """(status, problems) of a refused request, through all functions of the contract."""
    context = Context()
    request = handler.input_fn(body, content_type)
    answer, media_type = handler.output_fn(handler.predict_fn(request, None), "image/png", context)
    assert media_type == "application/json"
    assert "torch" not in sys.modules or context.status >= 400
    return context.status, json.loads(answer)["problems"]


def test_a_prompt_alone_is_enough(handler):
    request = handler.input_fn('{"prompt": "a lighthouse"}', "application/json")

    assert (request.prompt, request.num_images) == ("a lighthouse", 1)
    assert request.width % 8 == 0


def test_a_bare_text_is_a_prompt(handler):
    assert handler.input_fn(b"a lighthouse\n", "text/plain").prompt == "a lighthouse"


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
        (b"{", "application/json", 400, "the body is no JSON"),
        (b"[]", "application/json", 400, "the body must be a JSON object"),
        (b"\xff\xfe", "application/json", 400, "the body is not UTF-8"),
        (b"[" * 100_000, "application/json", 400, "the body is no JSON"),
        (b"x" * 1_000_001, "text/plain", 413, "at most 1000000"),
        (b"<prompt/>", "application/xml", 415, "send application/json or text/plain"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(handler, body, content_type, status, sentence):
    found, problems = refusal(handler, body, content_type)

    assert found == status
    assert sentence in problems[0]


def test_an_unexpected_error_is_a_sentence_without_a_traceback(handler, monkeypatch, capsys):
    def broken(pipeline, request):
        raise RuntimeError("the GPU fell off the bus")

    monkeypatch.setitem(sys.modules, "pipeline", SimpleNamespace(generate=broken))
    context = Context()

    request = handler.input_fn('{"prompt": "x"}', "application/json")
    answer, _ = handler.output_fn(handler.predict_fn(request, None), "image/png", context)

    assert context.status == 500
    assert json.loads(answer)["error"] == (
        "the model failed: RuntimeError: the GPU fell off the bus"
    )
    assert "Traceback" in capsys.readouterr().err, "the log has it"


def test_out_of_memory_says_what_to_ask_for_instead(handler, monkeypatch, capsys):
    def hungry(pipeline, request):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setitem(sys.modules, "pipeline", SimpleNamespace(generate=hungry))
    context = Context()

    request = handler.input_fn('{"prompt": "x"}', "application/json")
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

    request = handler.input_fn(body, "application/json")

    assert type(request).__name__ in ("ImageRequest", "Refusal")
