"""An endpoint's logs, read as one reads them on AWS (DG async-inference-monitor)."""

import pytest

pytestmark = pytest.mark.local_aws

GROUP = "/aws/sagemaker/Endpoints/echo"
CHATTY = """
def model_fn(folder): print("the model is here")
def input_fn(data, content_type): return data
def predict_fn(data, model): raise ValueError("no picture of " + data.decode())
def output_fn(prediction, accept): return prediction
"""


def events(account, ending: str) -> list[str]:
    logs = account.client("logs")
    streams = [
        stream["logStreamName"]
        for stream in logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    ]
    (stream,) = [s for s in streams if s.startswith("AllTraffic/i-") and s.endswith(ending)]
    found = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True)
    return [event["message"] for event in found["events"]]


def test_the_containers_output_and_the_platforms_lines_are_streams_of_the_endpoints_group(start):
    account = start()
    account.deploy(code=CHATTY)
    account.in_service()
    refused = account.submit(b"a unicorn", InferenceId="first")
    account.read(refused["FailureLocation"])

    instance = account.aws.running("us-east-1")["echo"].instances()[0]["name"]
    assert events(account, instance)[0] == "the model is here"
    (line, *_) = events(account, f"{instance}/data-log")
    assert "[first]" in line, "it names the request"
    assert "Received server error (500) from primary" in line


def test_logs_are_there_again_after_a_restart(start):
    before = start()
    before.deploy(code=CHATTY)
    before.in_service()
    instance = before.aws.running("us-east-1")["echo"].instances()[0]["name"]
    before.aws.stop()

    assert events(start(), instance) == ["the model is here"]
