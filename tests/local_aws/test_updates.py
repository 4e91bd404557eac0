"""Updates of an endpoint: traffic shifts, alarms roll back, nothing is lost on the way."""

import psutil
import pytest

from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws

SAYS = """
import time
def model_fn(folder): return None
def input_fn(data, content_type): return data
def predict_fn(data, model): return time.sleep({seconds}) or "{word}"
def output_fn(prediction, accept): return prediction
"""
BROKEN = "raise ValueError('no such weights')"


def says(word: str, seconds: float = 0.0) -> str:
    return SAYS.format(word=word, seconds=seconds)


def guarded(kind: str, wait_s: int, alarm: str | None = None, **sizes) -> dict:
    routing = {"Type": kind, "WaitIntervalInSeconds": wait_s, **sizes}
    config: dict = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}
    if alarm:
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": alarm}]}
    return config


def one_instance() -> dict:
    return {"Type": "INSTANCE_COUNT", "Value": 1}


@pytest.fixture
def account(start):
    """Two instances that say "old"; a simulated minute takes a second."""
    return served(start(minute_s=1.0))


def served(account):
    account.s3.create_bucket(Bucket="echo-bucket")
    account.configure("echo-1", "echo", says("old", 0.02), instances=2)
    account.sagemaker.create_endpoint(EndpointName="echo", EndpointConfigName="echo-1")
    account.in_service()
    return account


def update(account, code: str, deployment: dict | None = None, **more) -> None:
    account.configure("echo-2", "echo", code, instances=more.pop("instances", 2))
    guard = {"DeploymentConfig": deployment} if deployment else {}
    account.sagemaker.update_endpoint(
        EndpointName="echo", EndpointConfigName="echo-2", **guard, **more
    )


def answers(account, count: int = 10) -> list[bytes]:
    accepted = [
        account.runtime.invoke_endpoint_async(EndpointName="echo", Body=b"?") for _ in range(count)
    ]
    return [account.read(each["OutputLocation"]) for each in accepted]


def described(account) -> dict:
    return account.sagemaker.describe_endpoint(EndpointName="echo")


def ring(account, name: str, state: str) -> None:
    if not account.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]:
        account.cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="Mine",
            MetricName="Errors",
            Statistic="Sum",
            ComparisonOperator="GreaterThanThreshold",
            Threshold=0,
            Period=60,
            EvaluationPeriods=1,
            # Keeps the state that a person set, as there is no data.
            TreatMissingData="ignore",
        )
    account.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="a test")


def test_an_update_without_guardrails_shifts_all_at_once(account):
    update(account, says("new"))
    account.in_service()

    assert set(answers(account)) == {b"new"}
    assert described(account)["EndpointConfigName"] == "echo-2"


def test_a_canary_answers_a_part_until_it_is_baked(account):
    update(account, says("new", 0.02), guarded("CANARY", 240, CanarySize=one_instance()))
    eventually(lambda: "new" in str(answers(account)), "an answer of the canary")

    during = described(account)
    assert during["EndpointStatus"] == "Updating"
    assert during["EndpointConfigName"] == "echo-1"
    assert during["PendingDeploymentSummary"]["EndpointConfigName"] == "echo-2"
    assert set(answers(account, 30)) == {b"old", b"new"}
    account.in_service()
    assert set(answers(account)) == {b"new"}


@pytest.mark.parametrize(
    "deployment",
    [
        guarded("CANARY", 3000, "bad", CanarySize=one_instance()),
        {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": one_instance(),
                "WaitIntervalInSeconds": 3000,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "bad"}]},
        },
    ],
    ids=["canary", "rolling"],
)
def test_an_alarm_while_the_new_fleet_bakes_brings_the_old_one_back(account, deployment):
    ring(account, "bad", "OK")
    update(account, says("new", 0.02), deployment)
    eventually(lambda: "new" in str(answers(account)), "an answer of the new fleet")

    ring(account, "bad", "ALARM")
    account.in_service()

    found = described(account)
    assert "bad" in found["FailureReason"]
    assert found["EndpointConfigName"] == "echo-1"
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    assert set(answers(account)) == {b"old"}


def test_a_rolling_update_replaces_batch_by_batch(account):
    update(
        account,
        says("new"),
        {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": one_instance(),
                "WaitIntervalInSeconds": 30,
            }
        },
    )
    account.in_service()

    assert set(answers(account)) == {b"new"}
    assert account.instances() == 2


def test_a_handler_that_does_not_load_leaves_the_old_configuration_serving(account):
    update(account, BROKEN)
    account.in_service()

    found = described(account)
    assert "no such weights" in found["FailureReason"]
    assert found["EndpointConfigName"] == "echo-1"
    assert set(answers(account)) == {b"old"}


def test_an_instance_that_is_killed_while_it_starts_starts_again(account, processes):
    template = psutil.Process(processes.pid)
    before = {fork.pid for fork in template.children()}
    update(account, "import time; time.sleep(1)\n" + says("new"))

    started = eventually(
        lambda: [fork for fork in template.children() if fork.pid not in before], "a new instance"
    )
    started[0].kill()
    account.in_service()

    assert described(account)["EndpointConfigName"] == "echo-2"


def test_an_update_that_takes_too_long_is_rolled_back(start):
    """Ten minutes are the least that one may be given (BC), so they pass quickly here."""
    account = served(start(minute_s=0.2))
    deployment = guarded("ALL_AT_ONCE", 0)
    deployment["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
    update(account, "import time; time.sleep(60)", deployment)
    account.in_service()

    assert "MaximumExecutionTimeoutInSeconds" in described(account)["FailureReason"]


def test_an_update_that_a_restart_interrupts_is_resumed(account, start):
    update(account, says("new"), guarded("ALL_AT_ONCE", 120))
    account.aws.stop()

    after = start(minute_s=1.0)
    after.in_service()

    assert described(after)["EndpointConfigName"] == "echo-2"
    assert set(answers(after)) == {b"new"}


def test_a_deleted_configuration_goes_on_serving_also_after_a_restart(account, start):
    account.sagemaker.delete_endpoint_config(EndpointConfigName="echo-1")
    account.sagemaker.delete_model(ModelName="echo-1-model")
    account.aws.stop()

    after = start(minute_s=1.0)
    after.in_service()

    assert set(answers(after)) == {b"old"}


def test_an_update_goes_back_to_the_initial_instances_unless_they_are_retained(account):
    """TF #48990; RetainAllVariantProperties, less what is excluded (BC)."""
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="echo",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}],
    )
    account.in_service()

    update(account, says("new"), RetainAllVariantProperties=True)
    account.in_service()
    retained = account.instances()
    account.configure("echo-3", "echo", says("newer"), instances=1)
    account.sagemaker.update_endpoint(
        EndpointName="echo",
        EndpointConfigName="echo-3",
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredInstanceCount"}],
    )
    account.in_service()

    assert (retained, account.instances()) == (3, 1)


def test_the_last_deployment_configuration_can_be_retained(account):
    first = guarded("ALL_AT_ONCE", 60)
    update(account, says("new"), first)
    account.in_service()

    account.configure("echo-3", "echo", says("newer"), instances=2)
    account.sagemaker.update_endpoint(
        EndpointName="echo", EndpointConfigName="echo-3", RetainDeploymentConfig=True
    )
    eventually(lambda: set(answers(account)) == {b"newer"}, "the new fleet")

    assert described(account)["EndpointStatus"] == "Updating", "it bakes for a minute"
    assert described(account)["LastDeploymentConfig"] == first


@pytest.mark.parametrize(
    ("deployment", "sentence"),
    [
        (guarded("CANARY", 60, CanarySize={"Type": "INSTANCE_COUNT", "Value": 2}), "at most 50%"),
        (guarded("ALL_AT_ONCE", 60, "nobody"), r"Could not find CloudWatch alarm\(s\) nobody"),
        (guarded("ALL_AT_ONCE", 3601), "less than or equal to 3600"),
    ],
)
def test_a_deployment_configuration_that_sagemaker_refuses_changes_nothing(
    account, deployment, sentence
):
    with pytest.raises(account.sagemaker.exceptions.ClientError, match=sentence):
        update(account, says("new"), deployment)

    found = described(account)
    assert found["EndpointStatus"] == "InService"
    assert "LastDeploymentConfig" not in found
