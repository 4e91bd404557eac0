"""The embedded AWS scales an endpoint by what was deployed, and says why."""

import pytest

from async_inference.local_aws.services.alarms import phase_s
from tests.support.scaling import FAST_MINUTE_S, TARGET, activities, track, wake
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws


@pytest.fixture
def account(start):
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    return account


def tracked_alarms(account, **specification) -> list[dict]:
    """The alarms that target tracking on a metric makes."""
    account.autoscaling.put_scaling_policy(
        **TARGET,
        PolicyName="tracks",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={"TargetValue": 3.0, **specification},
    )
    return account.cloudwatch.describe_alarms(AlarmNamePrefix="TargetTracking-")["MetricAlarms"]


def test_the_alarms_of_target_tracking_look_at_what_it_tracks(account):
    mine = [{"Name": "Team", "Value": "images"}]
    custom = {"Namespace": "Mine", "MetricName": "Wanted", "Dimensions": mine, "Statistic": "Sum"}

    for alarm in tracked_alarms(account, CustomizedMetricSpecification=custom):
        assert {key: alarm[key] for key in custom} == custom
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    for alarm in tracked_alarms(account, PredefinedMetricSpecification=predefined):
        assert alarm["MetricName"] == "InvocationsPerInstance"


def test_target_tracking_on_an_expression_is_refused_here(account):
    metrics = [{"Id": "m", "Expression": "1"}]

    with pytest.raises(account.autoscaling.exceptions.ClientError, match="no expression"):
        tracked_alarms(account, CustomizedMetricSpecification={"Metrics": metrics})


def test_an_idle_endpoint_goes_to_zero_wakes_for_a_request_and_goes_back(account):
    track(account)
    wake(account)
    eventually(lambda: account.instances() == 0, "scale-in to zero")

    accepted = account.submit(b"wake up")

    assert account.read(accepted["OutputLocation"]) == b"wake up"
    assert account.instances() == 1
    eventually(lambda: account.instances() == 0, "scale-in to zero again")
    causes = [activity["Cause"] for activity in reversed(activities(account))]
    assert "policy Invocations-ScalingPolicy" in causes[0]
    assert causes[1] == "monitor alarm starved in state ALARM triggered policy wake-up"
    assert "AlarmLow" in causes[-1]
    assert "policy Invocations-ScalingPolicy" in causes[-1]


def test_a_decision_is_taken_when_its_alarm_is_due_however_late_the_machine_is(account):
    """A hundredth of a real second late is three simulated ones late, here."""
    track(account)
    eventually(lambda: account.instances() == 0, "scale-in to zero")

    (activity,) = activities(account)

    alarm = activity["Cause"].split()[2]
    assert "AlarmLow" in alarm
    assert activity["StartTime"].timestamp() % 60 == phase_s(alarm)


def test_without_a_wake_up_policy_it_stays_at_zero(account):
    """target_tracking_from_zero=never, the default (docs/aws-facts.md#target-tracking)."""
    track(account)
    eventually(lambda: account.instances() == 0, "scale-in to zero")
    for _ in range(5):
        account.submit(b"anybody there?")

    ignored = eventually(
        lambda: [
            activity
            for activity in activities(account, IncludeNotScaledActivities=True)
            if "never leaves zero" in activity.get("Description", "")
        ],
        "a reason for doing nothing",
    )

    assert "AlarmHigh" in ignored[0]["Cause"]
    assert account.instances() == 0


def starved_state(account) -> str:
    (alarm,) = account.cloudwatch.describe_alarms(AlarmNames=["starved"])["MetricAlarms"]
    return alarm["StateValue"]


def test_a_new_alarm_has_insufficient_data(start):
    account = start(minute_s=60)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)

    wake(account)

    assert starved_state(account) == "INSUFFICIENT_DATA"


def test_an_alarm_that_is_put_again_keeps_its_state(account):
    wake(account)
    eventually(lambda: starved_state(account) == "OK", "an evaluation")

    wake(account)

    assert starved_state(account) == "OK"


def test_a_schedule_sets_the_bounds_and_clamps_at_once(account):
    account.autoscaling.put_scheduled_action(
        **TARGET,
        ScheduledActionName="warm",
        Schedule="rate(1 minute)",
        ScalableTargetAction={"MinCapacity": 2, "MaxCapacity": 4},
    )

    eventually(lambda: account.instances() == 2, "two instances")
    (target,) = account.autoscaling.describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)


def test_deleting_the_endpoint_deregisters_its_target_and_deletes_its_alarms(account):
    track(account)

    account.sagemaker.delete_endpoint(EndpointName="echo")

    assert not account.autoscaling.describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ]
    assert not account.cloudwatch.describe_alarms()["MetricAlarms"]


def test_target_tracking_makes_its_two_alarms_in_awss_names(account):
    track(account)

    names = sorted(
        alarm["AlarmName"] for alarm in account.cloudwatch.describe_alarms()["MetricAlarms"]
    )
    assert [name.rsplit("-", 5)[0] for name in names] == [
        "TargetTracking-endpoint/echo/variant/AllTraffic-AlarmHigh",
        "TargetTracking-endpoint/echo/variant/AllTraffic-AlarmLow",
    ]


def test_a_target_that_exists_is_registered_anew_without_tags_only(account):
    """terraform-provider-aws quotes AWS: use the TagResource API."""
    bounds = {"MinCapacity": 0, "MaxCapacity": 5}
    account.autoscaling.deregister_scalable_target(**TARGET)
    account.autoscaling.register_scalable_target(**TARGET, **bounds, Tags={"team": "images"})

    with pytest.raises(account.autoscaling.exceptions.ValidationException, match="already exists"):
        account.autoscaling.register_scalable_target(**TARGET, **bounds, Tags={"team": "films"})

    bounds["MaxCapacity"] = 4
    arn = account.autoscaling.register_scalable_target(**TARGET, **bounds)["ScalableTargetARN"]
    (target,) = account.autoscaling.describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ]
    assert target["MaxCapacity"] == 4
    tags = account.autoscaling.list_tags_for_resource(ResourceARN=arn)["Tags"]
    assert tags == {"team": "images"}


def test_the_instance_type_cannot_change_while_a_target_is_registered(account):
    """DG endpoint-scaling: deregister, update, register again."""
    account.configure("echo-2", "echo", instance_type="ml.g5.2xlarge")
    update = {"EndpointName": "echo", "EndpointConfigName": "echo-2"}

    with pytest.raises(account.sagemaker.exceptions.ClientError, match="registered as scalable"):
        account.sagemaker.update_endpoint(**update)

    account.autoscaling.deregister_scalable_target(**TARGET)
    account.sagemaker.update_endpoint(**update)
    account.in_service()
    assert (
        account.sagemaker.describe_endpoint(EndpointName="echo")["EndpointConfigName"] == "echo-2"
    )


def test_a_restart_keeps_the_activities_in_order(account, start):
    for minimum in (2, 3):
        account.autoscaling.register_scalable_target(**TARGET, MinCapacity=minimum, MaxCapacity=5)
        eventually(lambda: account.status() == "InService", "in service")
    before = activities(account)
    account.aws.stop()

    after = activities(start(minute_s=FAST_MINUTE_S))

    assert [each["StatusCode"] for each in before] == ["Successful", "Successful"]
    assert after == before


def test_a_restart_keeps_targets_policies_alarms_and_the_clock(account, start):
    track(account)
    wake(account)
    before_s = account.aws.clock.now_s()
    account.aws.stop()

    after = start(minute_s=FAST_MINUTE_S)

    assert after.aws.clock.now_s() >= before_s
    policies = after.autoscaling.describe_scaling_policies(ServiceNamespace="sagemaker")
    assert {policy["PolicyName"] for policy in policies["ScalingPolicies"]} == {
        "Invocations-ScalingPolicy",
        "wake-up",
    }
    assert len(after.cloudwatch.describe_alarms()["MetricAlarms"]) == 3
    eventually(lambda: after.instances() == 0, "scale-in to zero")
