"""The protocol of submitting and waiting, in a world without I/O and with its own time."""

import json

import pytest
from botocore.exceptions import (
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from async_inference.client import errors
from async_inference.client.errors import (
    AccessError,
    CredentialsError,
    DeadlineError,
    EndpointGoneError,
    ExpiredError,
    FailedError,
    InferenceError,
    NoFailurePathError,
    RejectedError,
    StorageError,
    ThrottledError,
)
from async_inference.client.protocol import Accepted, Ended, Pace, Request, derived_id
from async_inference.client.watch import Notice, Watch, notification
from tests.support.client_world import World, refused

ONE = Accepted("one", "s3://bucket/out/one.out", "s3://bucket/fail/one-error.out")
LOST = ReadTimeoutError(endpoint_url="https://runtime")
REQUEST = Request.json({"prompt": "a seven"}, accept="image/png")


def test_a_payload_that_fits_travels_inline():
    """Body takes at most 128,000 bytes (BC InvokeEndpointAsync)."""
    world = World()

    accepted = world.run(world.protocol().submit(Request(body=b"x" * 128_000), "one", 10))

    assert accepted == ONE
    (asked,) = world.calls("invoke_endpoint_async")
    assert len(asked["Body"]) == 128_000
    assert "InputLocation" not in asked


def test_a_larger_payload_travels_through_s3_beside_the_outputs():
    world = World()

    world.run(world.protocol().submit(Request(body=b"x" * 128_001), "one", 10))

    (asked,) = world.calls("invoke_endpoint_async")
    assert asked["InputLocation"] == "s3://bucket/some/input/one"
    assert "Body" not in asked
    assert len(world.objects["s3://bucket/some/input/one"]) == 128_001


def test_a_larger_payload_goes_where_the_caller_says():
    world = World()
    protocol = world.protocol(input_path="s3://mine/payloads/")

    world.run(protocol.submit(Request(body=b"x" * 128_001), "one", 10))

    assert list(world.objects) == ["s3://mine/payloads/one"]
    assert world.calls("describe_endpoint") == []


def test_a_lost_answer_is_asked_for_again_under_the_same_id_and_file_name():
    """InvokeEndpointAsync is not idempotent; the same Filename makes both answers one object."""
    world = World(troubles=[LOST, refused("InternalFailure", status=500)])

    accepted = world.run(world.protocol().submit(REQUEST, "one", 60))

    assert accepted.output_location == "s3://bucket/out/one.out"
    assert len(world.slept_s) == 2
    asked = world.calls("invoke_endpoint_async")
    assert [(each["InferenceId"], each["Filename"]) for each in asked] == [("one", "one")] * 3


def test_the_same_key_and_request_get_the_same_id_and_others_do_not():
    first = derived_id("order 7", REQUEST, "b-")

    assert first == derived_id(
        "order 7", Request.json({"prompt": "a seven"}, accept="image/png"), "b-"
    )
    others = {
        first,
        derived_id("order 8", REQUEST, "b-"),
        derived_id("order 7", Request.json({"prompt": "an eight"}, accept="image/png"), "b-"),
        derived_id("order 7", Request.json({"prompt": "a seven"}), "b-"),
    }
    assert len(others) == 4
    assert len(first) <= 32, "Filename takes at most 32 characters (BC)"


def test_the_output_is_the_result():
    world = World(appearing=[(7.0, ONE.output_location, b"image")])

    result = world.run(world.protocol().wait(ONE, 60))

    assert result.body == b"image"
    assert 7.0 <= world.now_s <= 7.0 + Pace().longest_s


@pytest.mark.parametrize("ended", [Ended(ONE, False), None])
def test_a_fault_of_the_program_ends_a_rule_as_what_it_is(ended):
    """It must not be waited out like AWS's trouble, until the deadline hides it."""
    world = World(troubles=[TypeError("ours")] * 99)
    protocol = world.protocol()

    with pytest.raises(TypeError, match="ours"):
        world.run(protocol.collect(ended, None, 60) if ended else protocol.wait(ONE, 60))
    assert world.slept_s == []


def test_pauses_grow_to_the_longest_and_no_further():
    world = World()

    with pytest.raises(DeadlineError):
        world.run(world.protocol().wait(ONE, 50))

    assert world.slept_s[:3] == [0.2, pytest.approx(0.3), pytest.approx(0.45)]
    assert max(world.slept_s) == Pace().longest_s


@pytest.mark.parametrize("deadline_s", [0.0, 0.1, 1.0, 17.3, 100.0])
def test_a_deadline_is_kept_to_the_moment_with_a_last_look(deadline_s):
    world = World(appearing=[(deadline_s, ONE.output_location, b"just in time")])
    assert world.run(world.protocol().wait(ONE, deadline_s)).body == b"just in time"

    world = World()
    with pytest.raises(DeadlineError, match="the request continues"):
        world.run(world.protocol().wait(ONE, deadline_s))
    assert world.now_s == pytest.approx(deadline_s)


def test_submitting_and_waiting_share_one_deadline():
    world = World(troubles=[LOST] * 5)

    accepted = world.run(world.protocol().submit(REQUEST, "one", 30))
    with pytest.raises(DeadlineError):
        world.run(world.protocol().wait(accepted, 30))

    assert world.now_s == pytest.approx(30)


@pytest.mark.parametrize(
    ("text", "kind", "message", "status"),
    [
        (
            'Received client error (400) from primary with message "{"error": "steps = 0: too '
            'few"}". See the endpoint\'s log.',
            RejectedError,
            "steps = 0: too few",
            400,
        ),
        (
            'Received server error (507) from primary with message "out of memory". See https://x',
            FailedError,
            "out of memory",
            507,
        ),
        (
            'Received server error (500) from primary with message "no such style\n'
            'Traceback (most recent call last):\n  File "x". See the log"". See https://x',
            FailedError,
            "no such style",
            500,
        ),
        (
            "ClientError: Received server error (500) from model. See the SageMaker Endpoint logs",
            FailedError,
            "ClientError: Received server error (500) from model. See the SageMaker Endpoint logs",
            500,
        ),
        (
            "ClientError: The request expired after 60 s in the queue",
            ExpiredError,
            "ClientError: The request expired after 60 s in the queue",
            None,
        ),
        (
            'Received client error (400) from primary with message "the voucher expired". See x',
            RejectedError,
            "the voucher expired",
            400,
        ),
        (
            "ModelError: The model did not answer within 900 s",
            FailedError,
            "ModelError: The model did not answer within 900 s",
            None,
        ),
    ],
)
def test_a_failure_tells_the_models_own_message(text, kind, message, status):
    world = World(objects={str(ONE.failure_location): text.encode()})

    with pytest.raises(InferenceError) as caught:
        world.run(world.protocol().wait(ONE, 60))

    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert caught.value.status == status  # ty: ignore[missing-attribute]
    assert caught.value.inference_id == "one"


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (refused("ExpiredTokenException", "token expired"), CredentialsError, "renew"),
        (NoCredentialsError(), CredentialsError, "credentials"),
        (refused("AccessDenied", status=403), AccessError, "sagemaker:InvokeEndpointAsync"),
        (
            refused("ValidationError", "Endpoint echo of account 1 not found."),
            EndpointGoneError,
            "echo",
        ),
        (refused("ValidationError", "2 validation errors"), RejectedError, "2 validation errors"),
    ],
)
def test_what_stands_against_submitting_is_a_typed_error_at_once(raised, kind, says):
    world = World(troubles=[raised])

    with pytest.raises(kind, match=says):
        world.run(world.protocol().submit(REQUEST, "one", 60))
    assert world.now_s == 0


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (refused("ExpiredToken", "token expired"), CredentialsError, "renew"),
        (refused("AccessDenied", status=403), AccessError, "s3:ListBucket"),
        (refused("NoSuchBucket", "The bucket does not exist"), StorageError, "bucket"),
        (OSError(28, "No space left on device"), StorageError, "No space left"),
    ],
)
def test_what_stands_against_reading_is_a_typed_error_at_once(raised, kind, says):
    """S3 answers 403 for a missing object to a caller who may not list the bucket."""
    world = World(troubles=[raised])

    with pytest.raises(kind, match=says):
        world.run(world.protocol().wait(ONE, 60))
    assert world.now_s == 0


@pytest.mark.parametrize("waiting", [True, False])
def test_throttling_is_waited_out_and_named_where_it_lasts(waiting):
    def rule(world, until_s):
        protocol = world.protocol()
        return protocol.wait(ONE, until_s) if waiting else protocol.submit(REQUEST, "one", until_s)

    slow = refused("SlowDown", "reduce your rate", 503)
    world = World(objects={ONE.output_location: b"image"}, troubles=[slow] * 6)
    world.run(rule(world, 60))

    world = World(troubles=[slow] * 100)
    with pytest.raises(ThrottledError, match="SlowDown"):
        world.run(rule(world, 20))
    assert world.now_s == pytest.approx(20)


def test_an_unreachable_aws_is_waited_for_until_the_deadline():
    away = EndpointConnectionError(endpoint_url="https://s3")
    world = World(troubles=[away] * 8, objects={ONE.output_location: b"image"})

    assert world.run(world.protocol().wait(ONE, 60)).body == b"image"


def test_without_a_failure_path_the_deadline_says_that_nothing_can_be_told():
    """Failures reach S3 only if S3FailurePath is set (DG)."""
    world = World(failure_path=False)

    with pytest.raises(NoFailurePathError, match="no S3FailurePath"):
        world.run(world.protocol().wait(world.run(world.protocol().submit(REQUEST, "one", 20)), 20))


def test_an_endpoint_that_is_deleted_meanwhile_ends_the_wait():
    world = World()

    def gone(asked):
        raise refused("ValidationException", 'Could not find endpoint "arn:echo".')

    world.answers["describe_endpoint"] = gone
    with pytest.raises(EndpointGoneError, match="Could not find"):
        world.run(world.protocol().wait(ONE, 3600))
    assert world.now_s <= 60 + Pace().longest_s


def test_what_a_deleted_endpoint_answered_before_is_still_the_result():
    world = World()

    def gone(asked):
        world.objects[ONE.output_location] = b"its last"
        return {"EndpointStatus": "Deleting"}

    world.answers["describe_endpoint"] = gone
    assert world.run(world.protocol().wait(ONE, 3600)).body == b"its last"


def test_a_caller_who_may_not_describe_the_endpoint_waits_all_the_same():
    world = World(appearing=[(100.0, ONE.output_location, b"image")])

    def forbidden(asked):
        raise refused("AccessDeniedException", status=400)

    world.answers["describe_endpoint"] = forbidden
    assert world.run(world.protocol().wait(ONE, 3600)).body == b"image"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "exactly one of body and location"),
        ({"body": b"x", "location": "s3://b/k"}, "exactly one of body and location"),
        ({"location": "https://b/k"}, "must be s3://bucket/key"),
        ({"body": b"x", "ttl_s": 59}, "must be 60 to 21600"),
        ({"body": b"x", "timeout_s": 3601}, "must be 1 to 3600"),
        ({"body": b"x", "custom_attributes": "a\nb"}, "visible ASCII"),
    ],
)
def test_a_request_outside_awss_limits_is_refused_before_anything_is_sent(values, says):
    with pytest.raises(ValueError, match=says):
        Request(**values)


# Many together


def _many(count: int) -> list[Accepted]:
    return [
        Accepted(
            f"batch-{number}",
            f"s3://bucket/out/batch-{number}.out",
            f"s3://bucket/fail/batch-{number}-error.out",
        )
        for number in range(count)
    ]


def test_one_look_finds_all_that_have_ended_among_the_outputs_of_others():
    many = _many(7)
    world = World(
        objects={f"s3://bucket/out/{name}.out": b"others'" for name in ("a", "b", "c", "d", "x")}
    )
    world.objects |= {each.output_location: b"image" for each in many[:5]}
    world.objects[str(many[5].failure_location)] = b"failed"

    ended = world.run(world.protocol().look(many))

    assert sorted((each.accepted.inference_id, each.failed) for each in ended) == [
        *((f"batch-{number}", False) for number in range(5)),
        ("batch-5", True),
    ]
    assert {asked["Prefix"] for asked in world.calls("list_objects_v2")} == {
        "out/batch-",
        "fail/batch-",
    }


def test_many_are_waited_for_together_and_the_deadline_ends_what_is_left():
    many = _many(3)
    world = World(
        appearing=[
            (3.0, many[0].output_location, b"image"),
            (9.0, str(many[1].failure_location), b"ModelError: broken"),
        ]
    )
    watch = Watch(world.protocol())
    for each in many:
        watch.add(each)

    found = {}
    while watch.pending:
        found |= {a.inference_id: result for a, result in world.run(watch.results(30.0))}

    assert found["batch-0"].body == b"image"
    assert str(found["batch-1"]) == "ModelError: broken"
    assert isinstance(found["batch-2"], DeadlineError)
    assert world.now_s == pytest.approx(30)


def _message(inference_id: str, *, raw: bool = False, **more) -> str:
    """The SQS message of a notification, as SNS wraps it (DG async-inference-check-predictions)."""
    content = json.dumps(
        {
            "awsRegion": "us-east-1",
            "eventTime": "2026-01-25T22:46:00.608Z",
            "receivedTime": "2026-01-25T22:46:00.455Z",
            "invocationStatus": "Completed",
            "requestParameters": {"endpointName": "echo"},
            "inferenceId": inference_id,
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
            **more,
        }
    )
    return content if raw else json.dumps({"Type": "Notification", "Message": content})


@pytest.mark.parametrize("raw", [True, False])
def test_a_notification_says_how_its_request_ended(raw):
    assert notification(_message("one", raw=raw)) == Notice("one", False, None, 0.153)
    failed = _message("two", raw=raw, invocationStatus="Failed", failureReason="ClientError: no")
    assert notification(failed) == Notice("two", True, "ClientError: no", 0.153)


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "{}", '{"Message": "hello"}', "7"])
def test_other_messages_are_no_notifications(body):
    assert notification(body) is None


def _queue(world: World, *deliveries: tuple[float, str]) -> list[str]:
    """A queue in which messages arrive at their times; returns what was deleted from it."""
    left, deleted = list(deliveries), []

    def receive(asked):
        until_s = world.now_s + asked["WaitTimeSeconds"]
        due = [each for each in left if each[0] <= until_s][:10]
        world.now_s = max(world.now_s, due[0][0]) if due else until_s
        due = [each for each in due if each[0] <= world.now_s]
        for each in due:
            left.remove(each)
        return {"Messages": [{"Body": body, "ReceiptHandle": body} for _, body in due]}

    world.answers["receive_message"] = receive
    world.answers["delete_message_batch"] = lambda asked: deleted.extend(
        entry["ReceiptHandle"] for entry in asked["Entries"]
    )
    return deleted


def test_one_listener_serves_many_requests_without_looking_at_s3_for_each():
    many = _many(3)
    world = World(objects={each.output_location: b"image" for each in many[:2]})
    failed = _message("batch-2", invocationStatus="Failed", failureReason="ModelError: broken")
    messages = [_message("batch-1"), _message("of another"), _message("batch-0"), failed]
    deleted = _queue(world, *zip((10.0, 11.0, 11.0, 12.0), messages, strict=True))
    watch = Watch(world.protocol(), "https://queue")
    for each in many:
        watch.add(each)

    found = {}
    while watch.pending:
        found |= {a.inference_id: result for a, result in world.run(watch.results(600.0))}

    assert [found[name].body for name in ("batch-0", "batch-1")] == [b"image", b"image"]
    assert str(found["batch-2"]) == "ModelError: broken"
    assert deleted == messages
    assert world.calls("list_objects_v2") == []


def test_a_notification_that_comes_before_the_answer_to_the_submission_is_kept():
    world = World(objects={ONE.output_location: b"image"})
    _queue(world, (0.0, _message("one")))
    watch = Watch(world.protocol(), "https://queue")
    watch.expect("one")

    assert world.run(watch.round(60.0)) == []
    watch.add(ONE)

    assert world.run(watch.round(60.0)) == [Ended(ONE, failed=False, took_s=0.153)]


def test_a_notification_that_never_comes_is_made_up_for_by_a_look():
    world = World(objects={ONE.output_location: b"image"})
    _queue(world)
    watch = Watch(world.protocol(), "https://queue")
    watch.add(ONE)

    assert world.run(watch.round(600.0)) == [Ended(ONE, failed=False)]


def test_a_failure_without_a_failure_path_is_told_by_its_notification():
    world = World(failure_path=False)
    accepted = world.run(world.protocol().submit(REQUEST, "one", 10))
    ended = Ended(accepted, failed=True, reason="ModelError: broken")

    with pytest.raises(FailedError, match="ModelError: broken"):
        world.run(world.protocol().collect(ended, None, 60))


def test_an_output_that_is_removed_before_it_is_fetched_is_a_failure_and_no_endless_wait():
    world = World()

    with pytest.raises(FailedError, match="removed before it was fetched"):
        world.run(world.protocol().collect(Ended(ONE, failed=False), None, 60))
    assert world.now_s == 0


def test_listening_to_an_endpoint_without_topics_is_refused():
    world = World()
    world.answers["describe_endpoint"] = lambda asked: {"EndpointStatus": "InService"}

    with pytest.raises(RejectedError, match="has no topics"):
        world.run(world.protocol().subscribe("queue", 60))


def test_errors_are_told_apart_by_awss_codes():
    assert errors.is_transient(refused("ServiceUnavailable", status=503))
    assert errors.is_transient(refused("Whatever", status=500))
    assert errors.is_throttle(refused("ThrottlingException"))
    assert not errors.is_transient(refused("ValidationError"))
    assert errors.is_missing(refused("NoSuchKey", status=404))
    assert not errors.is_missing(refused("NoSuchBucket", status=404))
