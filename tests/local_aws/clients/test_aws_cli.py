"""The AWS CLI works an endpoint on the embedded AWS."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support import CLIENTS
from tests.support.embedded_aws import Account
from tests.support.scaling import FAST_MINUTE_S, TARGET, wake
from tests.support.waiting import eventually

pytestmark = pytest.mark.clients


@pytest.fixture
def account(start) -> Account:
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=1)
    wake(account)
    return account


@pytest.fixture
def aws(account, run) -> Callable[..., object]:
    def aws(*arguments: str) -> Any:
        command = CLIENTS / "python" / "bin" / "aws"
        printed = run(account, command, "--output", "json", *arguments)
        return json.loads(printed) if printed.startswith("{") else printed

    return aws


def test_a_whole_working_day_of_the_cli(account, aws, tmp_path):
    described = aws("sagemaker", "describe-endpoint", "--endpoint-name", "echo")
    assert described["EndpointStatus"] == "InService"
    listed = aws("sagemaker", "list-endpoints", "--name-contains", "echo")
    assert [endpoint["EndpointName"] for endpoint in listed["Endpoints"]] == ["echo"]

    (tmp_path / "request.txt").write_text("hello")
    aws("s3", "cp", "request.txt", "s3://echo-bucket/in/request.txt")
    accepted = aws(
        "sagemaker-runtime",
        "invoke-endpoint-async",
        "--endpoint-name=echo",
        "--input-location=s3://echo-bucket/in/request.txt",
        "--inference-id=by-hand",
    )
    assert accepted["InferenceId"] == "by-hand"
    location = accepted["OutputLocation"]
    account.read(location)
    aws("s3", "cp", location, "answer.txt")
    assert (tmp_path / "answer.txt").read_text() == "hello"

    aws(
        "application-autoscaling",
        "register-scalable-target",
        "--service-namespace=sagemaker",
        f"--resource-id={TARGET['ResourceId']}",
        f"--scalable-dimension={TARGET['ScalableDimension']}",
        "--max-capacity=0",
    )
    eventually(lambda: account.instances() == 0, "no instances")
    activities = aws(
        "application-autoscaling",
        "describe-scaling-activities",
        "--service-namespace=sagemaker",
        f"--resource-id={TARGET['ResourceId']}",
        "--include-not-scaled-activities",
    )["ScalingActivities"]
    assert any(
        activity["Description"] == "Setting desired instance count to 0." for activity in activities
    )

    account.submit(b"nobody is there")
    eventually(
        lambda: account.cloudwatch.describe_alarms()["MetricAlarms"][0]["StateValue"] == "ALARM",
        "an alarm",
    )
    (alarm,) = aws("cloudwatch", "describe-alarms", "--state-value", "ALARM")["MetricAlarms"]
    assert alarm["AlarmName"] == "starved"
    items = aws(
        "cloudwatch",
        "describe-alarm-history",
        "--alarm-name=starved",
        "--history-item-type=StateUpdate",
        "--max-items=1",
    )["AlarmHistoryItems"]
    assert items[0]["HistorySummary"] == "Alarm updated from OK to ALARM"
    now = datetime.fromtimestamp(account.aws.clock.now_s(), UTC)
    points = aws(
        "cloudwatch",
        "get-metric-statistics",
        "--namespace=AWS/SageMaker",
        "--metric-name=HasBacklogWithoutCapacity",
        "--dimensions=Name=EndpointName,Value=echo",
        "--statistics=Maximum",
        "--period=60",
        f"--start-time={(now - timedelta(hours=3)).isoformat()}",
        f"--end-time={now.isoformat()}",
    )["Datapoints"]
    assert max(point["Maximum"] for point in points) == 1


def test_an_inline_body_and_a_refusal(account, aws, tmp_path):
    (tmp_path / "body").write_text(json.dumps({"prompt": "a lighthouse"}))
    accepted = aws(
        "sagemaker-runtime",
        "invoke-endpoint-async",
        "--endpoint-name=echo",
        "--body=fileb://body",
        "--content-type=application/json",
    )
    assert json.loads(account.read(accepted["OutputLocation"])) == {"prompt": "a lighthouse"}

    with pytest.raises(AssertionError, match=r"\(ValidationException\).*Could not find endpoint"):
        aws("sagemaker", "describe-endpoint", "--endpoint-name", "nothing")
