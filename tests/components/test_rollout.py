"""Deployment guardrails as SageMaker takes them, and the alarm that rolls back."""

import pytest

from async_inference.stack.groups import Updates
from components.rollout import deployment_config
from tests.support.async_endpoint import CONFIGURATION, ENDPOINT

ALARM = ("aws:cloudwatch/metricAlarm:MetricAlarm", "demo-rollback-alarm")


@pytest.mark.parametrize(
    ("updates", "routing"),
    [
        (
            Updates(strategy="all_at_once", wait_s=300, rollback=True),
            {"type": "ALL_AT_ONCE", "wait_interval_in_seconds": 300},
        ),
        (
            Updates(strategy="canary", step_percent=10, wait_s=60, rollback=True),
            {
                "type": "CANARY",
                "wait_interval_in_seconds": 60,
                "canary_size": {"type": "CAPACITY_PERCENT", "value": 10},
            },
        ),
        (
            Updates(strategy="linear", step_percent=25),
            {
                "type": "LINEAR",
                "wait_interval_in_seconds": 0,
                "linear_step_size": {"type": "CAPACITY_PERCENT", "value": 25},
            },
        ),
    ],
)
def test_a_second_fleet_takes_over_at_once_or_in_steps(updates, routing):
    config = deployment_config(updates, None)

    assert config is not None
    assert config["blue_green_update_policy"] == {
        "traffic_routing_configuration": routing,
        "termination_wait_in_seconds": 0,
        "maximum_execution_timeout_in_seconds": 3600,
    }


def test_a_rolling_update_has_no_second_fleet():
    config = deployment_config(Updates(strategy="rolling", step_percent=20), None)

    assert config == {
        "rolling_update_policy": {
            "maximum_batch_size": {"type": "CAPACITY_PERCENT", "value": 20},
            "wait_interval_in_seconds": 0,
            "maximum_execution_timeout_in_seconds": 3600,
        }
    }


def test_unless_asked_an_update_is_sagemakers_own(register, endpoint):
    record = register(endpoint)

    assert "deploymentConfig" not in record[ENDPOINT, "demo-endpoint"].inputs
    assert ALARM not in record.keys


def test_the_alarm_looks_at_the_new_fleet_only_and_forgives_silence(register, endpoint):
    """DG deployment-guardrails-configuration: EndpointConfigName, notBreaching."""
    record = register(lambda: endpoint(updates=Updates(rollback=True)))

    alarm = record[ALARM]
    assert alarm.inputs["dimensions"] == {
        "EndpointName": "async-demo",
        "VariantName": "AllTraffic",
        "EndpointConfigName": "demo-config-1a2b3c4",
    }
    assert alarm.inputs["treatMissingData"] == "notBreaching"
    assert alarm.input_dependencies["dimensions"] == {"demo-config"}


def test_the_alarm_is_changed_before_the_endpoint_and_its_name_never(register, endpoint):
    """A changed auto_rollback_configuration replaces it (docs/aws-facts.md#replacement)."""
    record = register(lambda: endpoint(updates=Updates(rollback=True)))

    updated = record[ENDPOINT, "demo-endpoint"]
    assert "demo-rollback-alarm" in updated.depends_on
    assert updated.inputs["deploymentConfig"]["autoRollbackConfiguration"] == {
        "alarms": [{"alarmName": "async-demo-rollback"}]
    }
    assert updated.input_dependencies["deploymentConfig"] == frozenset()
    assert record[ALARM].inputs["name"] == "async-demo-rollback"
    assert "name" not in record[CONFIGURATION, "demo-config"].inputs
