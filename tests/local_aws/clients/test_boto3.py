"""boto3's own waiters and paginators, of every list call that the embedded AWS answers itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.support.embedded_aws import ROLE
from tests.support.scaling import FAST_MINUTE_S, TARGET, track, wake
from tests.support.waiting import eventually

pytestmark = pytest.mark.clients

SOON = {"Delay": 1, "MaxAttempts": 30}
PAGE = 2
MANY = 2 * PAGE + 1
NAMES = {f"many-{number}" for number in range(MANY)}


def test_the_waiters_follow_an_endpoint_into_service_and_out_of_existence(start):
    account = start()
    account.deploy()

    account.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="echo", WaiterConfig=SOON)
    assert account.status() == "InService"

    account.sagemaker.delete_endpoint(EndpointName="echo")
    account.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="echo", WaiterConfig=SOON)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        account.status()


def test_the_waiter_stops_at_an_endpoint_that_failed(start):
    account = start()
    account.deploy(code="raise RuntimeError('no model')")

    with pytest.raises(WaiterError, match="terminal failure state"):
        account.sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName="echo", WaiterConfig=SOON
        )

    described = account.sagemaker.describe_endpoint(EndpointName="echo")
    assert described["EndpointStatus"] == "Failed"
    assert "no model" in described["FailureReason"]


def test_the_object_waiter_sees_an_output_appear(account):
    accepted = account.submit(b"hello")
    key = accepted["OutputLocation"].removeprefix("s3://echo-bucket/")

    account.s3.get_waiter("object_exists").wait(Bucket="echo-bucket", Key=key, WaiterConfig=SOON)

    assert account.read(accepted["OutputLocation"]) == b"hello"


def pages(client: Any, operation: str, **arguments: object) -> list[dict[str, Any]]:
    """All pages, none with more entries than asked for."""
    found = list(
        client.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": PAGE})
    )
    key = client.get_paginator(operation).result_keys[0].expression
    assert len(found) > 1, operation
    for page in found:
        assert 1 <= len(page[key]) <= PAGE, operation
    assert all(len(page[key]) == PAGE for page in found[:-1]), operation
    return [entry for page in found for entry in page[key]]


def test_models_configurations_and_endpoints_are_listed_page_by_page(account):
    sagemaker = account.sagemaker
    for name in sorted(NAMES):
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1",
                "ModelDataUrl": "s3://echo-bucket/code/echo-1.tar.gz",
                "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
            },
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[
                {
                    "VariantName": "AllTraffic",
                    "ModelName": name,
                    "InstanceType": "ml.g5.xlarge",
                    "InitialInstanceCount": 1,
                }
            ],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://echo-bucket/out"}},
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    models = pages(sagemaker, "list_models", NameContains="many")
    configurations = pages(sagemaker, "list_endpoint_configs", NameContains="many")
    endpoints = pages(sagemaker, "list_endpoints", NameContains="many")

    assert {model["ModelName"] for model in models} == NAMES
    assert {each["EndpointConfigName"] for each in configurations} == NAMES
    assert {endpoint["EndpointName"] for endpoint in endpoints} == NAMES
    assert len(models) == len(configurations) == len(endpoints) == MANY, "each once"
    created = [model["CreationTime"] for model in models]
    assert created == sorted(created, reverse=True), "the newest first, unless told otherwise"
    by_name = sagemaker.get_paginator("list_models").paginate(
        NameContains="many", SortBy="Name", SortOrder="Ascending"
    )
    assert [m["ModelName"] for page in by_name for m in page["Models"]] == sorted(NAMES)
    for name in NAMES:
        account.in_service(name)
    serving = pages(sagemaker, "list_endpoints", StatusEquals="InService")
    assert {endpoint["EndpointName"] for endpoint in serving} == NAMES | {"echo"}


def test_a_token_of_nobody_is_refused(account):
    with pytest.raises(ClientError, match="ValidationException"):
        account.sagemaker.list_models(NextToken="nonsense")


def test_all_tags_of_an_endpoint_are_listed(account):
    """50, the most that a resource may have, are also the smallest page of ListTags (BC)."""
    arn = account.sagemaker.describe_endpoint(EndpointName="echo")["EndpointArn"]
    tags = [{"Key": f"key-{number}", "Value": "x"} for number in range(50)]
    account.sagemaker.add_tags(ResourceArn=arn, Tags=tags)

    found = account.sagemaker.get_paginator("list_tags").paginate(
        ResourceArn=arn, PaginationConfig={"PageSize": 50}
    )

    assert [tag for page in found for tag in page["Tags"]] == tags


def test_what_scales_is_listed_page_by_page(account):
    autoscaling = account.autoscaling
    names = sorted(NAMES)
    for name in names:
        account.configure(name, "echo")
        account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        target = TARGET | {"ResourceId": f"endpoint/{name}/variant/AllTraffic"}
        autoscaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=1)
    autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=1)
    for name in names:
        autoscaling.put_scaling_policy(
            **TARGET,
            PolicyName=name,
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            },
        )
        autoscaling.put_scheduled_action(
            **TARGET,
            ScheduledActionName=name,
            Schedule="cron(0 8 * * ? *)",
            ScalableTargetAction={"MinCapacity": 1},
        )
    for capacity in range(1, MANY + 1):
        autoscaling.register_scalable_target(**TARGET, MinCapacity=capacity, MaxCapacity=capacity)
    mine = {"ServiceNamespace": "sagemaker", "ResourceId": TARGET["ResourceId"]}

    targets = pages(autoscaling, "describe_scalable_targets", ServiceNamespace="sagemaker")
    policies = pages(autoscaling, "describe_scaling_policies", **mine)
    actions = pages(autoscaling, "describe_scheduled_actions", **mine)
    activities = pages(autoscaling, "describe_scaling_activities", **mine)

    assert len(targets) == MANY + 1
    assert [policy["PolicyName"] for policy in policies] == names
    assert [action["ScheduledActionName"] for action in actions] == names
    assert len({activity["ActivityId"] for activity in activities}) >= MANY - 1
    started = [activity["StartTime"] for activity in activities]
    assert started == sorted(started, reverse=True), "the newest first"


def test_alarms_their_history_and_metrics_are_listed_page_by_page(start):
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    track(account)
    wake(account)
    account.submit(b"hello")
    cloudwatch = account.cloudwatch

    def history() -> list[dict[str, object]]:
        return cloudwatch.describe_alarm_history()["AlarmHistoryItems"]

    eventually(lambda: len(history()) > PAGE, "a history of alarms")
    answered = [
        page["AlarmHistoryItems"]
        for page in cloudwatch.get_paginator("describe_alarm_history").paginate(
            HistoryItemType="StateUpdate", PaginationConfig={"PageSize": PAGE}
        )
    ]
    items = [item for page in answered for item in page]
    told = {(item["AlarmName"], item["Timestamp"], item["HistorySummary"]) for item in items}
    assert len(told) == len(items), "each once"
    assert all(len(page) <= PAGE for page in answered)
    alarms = [
        alarm["AlarmName"]
        for page in cloudwatch.get_paginator("describe_alarms").paginate(
            PaginationConfig={"PageSize": PAGE}
        )
        for alarm in page["MetricAlarms"]
    ]
    assert len(alarms) == len(set(alarms)) == 3
    metrics = [
        metric["MetricName"]
        for page in cloudwatch.get_paginator("list_metrics").paginate(Namespace="AWS/SageMaker")
        for metric in page["Metrics"]
    ]
    assert "ApproximateBacklogSize" in metrics
    now = datetime.fromtimestamp(account.aws.clock.now_s(), UTC)
    stat = {
        "Metric": {
            "Namespace": "AWS/SageMaker",
            "MetricName": "ApproximateBacklogSize",
            "Dimensions": [{"Name": "EndpointName", "Value": "echo"}],
        },
        "Period": 60,
        "Stat": "Maximum",
    }
    data = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=[{"Id": "backlog", "MetricStat": stat}],
        StartTime=now - timedelta(hours=1),
        EndTime=now,
    )
    values = [value for page in data for r in page["MetricDataResults"] for value in r["Values"]]
    assert max(values) >= 0


def test_objects_are_listed_page_by_page(account):
    for _ in range(MANY):
        account.read(account.submit(b"hello")["OutputLocation"])

    assert len(pages(account.s3, "list_objects_v2", Bucket="echo-bucket", Prefix="out/")) == MANY
