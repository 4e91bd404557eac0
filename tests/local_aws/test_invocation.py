"""InvokeEndpointAsync on the embedded AWS: every accepted request ends in one answer."""

import http.client
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws


@pytest.fixture
def account(start):
    account = start()
    account.deploy()
    account.in_service()
    return account


def test_the_answer_to_a_request_on_s3_is_an_object_at_its_output_location(account):
    accepted = account.submit(b"hello", InferenceId="first")

    assert accepted["InferenceId"] == "first"
    assert accepted["OutputLocation"].startswith("s3://echo-bucket/out/")
    assert account.read(accepted["OutputLocation"]) == b"hello"


def test_a_body_may_come_inline(account):
    accepted = account.runtime.invoke_endpoint_async(EndpointName="echo", Body=b"inline")

    assert account.read(accepted["OutputLocation"]) == b"inline"


def test_a_refused_input_is_a_failure_object_and_the_endpoint_goes_on(account):
    refused = account.submit(b"poison")

    failure = account.read(refused["FailureLocation"])
    assert b"Received client error (400) from primary" in failure
    assert b"poisoned" in failure
    assert account.read(account.submit(b"next")["OutputLocation"]) == b"next"


def test_a_missing_input_object_is_a_failure_that_names_it(account):
    accepted = account.runtime.invoke_endpoint_async(
        EndpointName="echo", InputLocation="s3://echo-bucket/in/nothing"
    )

    assert b"s3://echo-bucket/in/nothing" in account.read(accepted["FailureLocation"])


@pytest.mark.parametrize(
    "location",
    [
        "s3://echo-bucket/in/größe ü.json",
        "https://echo-bucket.s3.us-east-1.amazonaws.com/in/gr%C3%B6%C3%9Fe%20%C3%BC.json",
        "https://s3.us-east-1.amazonaws.com/echo-bucket/in/gr%C3%B6%C3%9Fe%20%C3%BC.json",
    ],
)
def test_an_input_location_may_be_any_text_and_a_url(account, location):
    """BC InputLocation begins with s3:// or https://; headers are UTF-8."""
    account.s3.put_object(Bucket="echo-bucket", Key="in/größe ü.json", Body=b"hello")

    # botocore itself sends no header but ASCII and Latin-1, so this is what other clients send.
    status, said = invoked(account.aws.url, location)

    assert status == 202, said
    assert account.read(said) == b"hello"


def test_a_url_of_another_place_is_a_failure_that_names_it(account):
    accepted = account.runtime.invoke_endpoint_async(
        EndpointName="echo", InputLocation="https://example.com/request"
    )

    failure = account.read(accepted["FailureLocation"])
    assert b"https://example.com/request is not the URL of an S3 object" in failure


def invoked(url: str, location: str) -> tuple[int, str]:
    """The status of an invocation whose InputLocation is sent as UTF-8, and its OutputLocation."""
    place = urlsplit(url)
    scope = "Credential=local/20260101/us-east-1/sagemaker/aws4_request"
    with closing(http.client.HTTPConnection(place.netloc, timeout=30)) as connection:
        connection.putrequest("POST", "/endpoints/echo/async-invocations")
        connection.putheader("Authorization", f"AWS4-HMAC-SHA256 {scope}")
        connection.putheader("X-Amzn-SageMaker-InputLocation", location.encode())
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("X-Amzn-SageMaker-OutputLocation", "")


def test_an_inference_beyond_its_timeout_fails_and_the_model_is_loaded_again(account):
    accepted = account.submit(b"slow", InvocationTimeoutSeconds=1)

    assert b"did not answer within 1 s" in account.read(accepted["FailureLocation"])
    assert account.read(account.submit(b"next")["OutputLocation"]) == b"next"


def test_real_time_invocation_of_an_asynchronous_endpoint_is_refused(account):
    """Such an endpoint takes only InvokeEndpointAsync (DG)."""
    with pytest.raises(account.runtime.exceptions.ClientError, match="ValidationError"):
        account.runtime.invoke_endpoint(EndpointName="echo", Body=b"now")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"Body": b"x" * 128_001}, "exceeds the limit of 128000 bytes"),
        ({"InputLocation": "s3://b/k", "Body": b"x"}, "Exactly one of InputLocation and Body"),
        ({"InputLocation": "http://b/k"}, "failed to satisfy constraint|not the URI"),
        ({"Body": b"x", "RequestTTLSeconds": 59}, "greater than or equal to 60"),
        ({"Body": b"x", "InvocationTimeoutSeconds": 3601}, "less than or equal to 3600"),
        ({"Body": b"x", "InferenceId": "i" * 65}, "less than or equal to 64"),
        ({"Body": b"x", "CustomAttributes": "c" * 1025}, "less than or equal to 1024"),
        ({"Body": b"x", "Filename": "f" * 33}, "less than or equal to 32"),
        ({"Body": b"x", "Filename": "a.b.c"}, "regular expression pattern"),
        ({"Body": b"x", "S3OutputPathExtension": "e" * 513}, "less than or equal to 512"),
        ({"Body": b"x", "S3OutputPathExtension": "s3://b"}, "regular expression pattern"),
        ({}, "Exactly one of InputLocation and Body"),
    ],
)
def test_a_request_outside_awss_limits_is_refused(account, arguments, sentence):
    """The runtime's error is ValidationError, the control plane's ValidationException (BC)."""
    with pytest.raises(account.runtime.exceptions.ValidationError, match=sentence):
        account.runtime.invoke_endpoint_async(EndpointName="echo", **arguments)


def test_a_request_may_name_its_output_and_a_folder_below_the_output_path(account):
    accepted = account.runtime.invoke_endpoint_async(
        EndpointName="echo", Body=b"x", S3OutputPathExtension="june/", Filename="first.json"
    )

    assert accepted["OutputLocation"] == "s3://echo-bucket/out/june/first.json"
    assert account.read(accepted["OutputLocation"]) == b"x"


def test_without_a_failure_path_a_failure_is_only_published(start):
    """Failures reach S3 only if S3FailurePath is set (docs/aws-facts.md#answers)."""
    account = start()
    bad, failures = account.listen("bad")
    account.deploy(output={"S3FailurePath": None, "NotificationConfig": {"ErrorTopic": bad}})
    account.in_service()

    accepted = account.submit(b"poison", InferenceId="poisoned")

    assert "FailureLocation" not in accepted
    (complaint,) = eventually(failures, "a notification")
    assert complaint["inferenceId"] == "poisoned"
    listed = account.s3.list_objects_v2(Bucket="echo-bucket", Prefix="fail")
    assert listed["KeyCount"] == 0


def test_an_output_that_cannot_be_written_is_a_failure(start):
    account = start()
    bad, failures = account.listen("bad")
    account.deploy(
        output={"S3OutputPath": "s3://nobody/out", "NotificationConfig": {"ErrorTopic": bad}}
    )
    account.in_service()

    accepted = account.submit(b"hello")

    assert b"Failed to upload the response" in account.read(accepted["FailureLocation"])
    (complaint,) = eventually(failures, "a notification")
    assert complaint["invocationStatus"] == "Failed"


def test_a_small_response_is_in_the_notification_when_asked_for(start):
    """IncludeInferenceResponseIn, up to 128 KB (docs/aws-facts.md#answers)."""
    account = start()
    good, successes = account.listen("good")
    topics = {
        "SuccessTopic": good,
        "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"],
    }
    account.deploy(output={"NotificationConfig": topics})
    account.in_service()

    account.submit(b"hello")
    (small,) = eventually(successes, "a notification")
    account.submit(b"x" * (128 * 1024 + 1))
    (large,) = eventually(successes, "a notification")

    assert small["responseBody"] == {"content": "aGVsbG8=", "encoding": "BASE64"}
    assert "responseBody" not in large


def test_success_and_failure_are_published_in_awss_shape(start):
    account = start()
    good, successes = account.listen("good")
    bad, failures = account.listen("bad")
    account.deploy(output={"NotificationConfig": {"SuccessTopic": good, "ErrorTopic": bad}})
    account.in_service()

    fine = account.submit(b"hello", InferenceId="fine")
    account.read(fine["OutputLocation"])
    (message,) = successes()
    poisoned = account.submit(b"poison", InferenceId="poisoned")
    account.read(poisoned["FailureLocation"])
    (complaint,) = failures()

    assert message["invocationStatus"] == "Completed"
    assert message["inferenceId"] == "fine"
    assert message["requestParameters"]["endpointName"] == "echo"
    assert message["responseParameters"]["outputLocation"] == fine["OutputLocation"]
    assert (message["eventSource"], message["eventName"]) == ("aws:sagemaker", "InferenceResult")
    assert complaint["invocationStatus"] == "Failed"
    assert "poisoned" in complaint["failureReason"]


def test_requests_are_answered_in_the_order_of_acceptance(account):
    stamp = """
import time
def model_fn(folder): return None
def predict_fn(data, model): return str(time.monotonic_ns())
def input_fn(data, content_type): return data
def output_fn(prediction, accept): return prediction
"""
    account.configure("echo-2", "echo", stamp)
    account.sagemaker.update_endpoint(EndpointName="echo", EndpointConfigName="echo-2")
    account.in_service()

    accepted = [
        account.runtime.invoke_endpoint_async(EndpointName="echo", Body=b"x") for _ in range(20)
    ]

    stamps = [int(account.read(each["OutputLocation"])) for each in accepted]
    assert stamps == sorted(stamps)


def test_what_was_accepted_before_a_restart_is_answered_after_it(start):
    before = start()
    before.deploy()
    before.in_service()
    before.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="echo",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}],
    )
    eventually(lambda: before.instances() == 0, "no instances")
    accepted = [before.submit(b"kept") for _ in range(3)]
    before.aws.stop()

    after = start()
    after.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="echo",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 1}],
    )

    assert [after.read(each["OutputLocation"]) for each in accepted] == [b"kept"] * 3
