"""The guard keeps what an endpoint runs; that the engine calls it, tests/engine shows."""

import pytest

from components.rollback_guard import Live, StillLiveError, refuse_if_live

CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
MODEL = "aws:sagemaker/model:Model"

LIVE = Live(
    configuration="config-old",
    models=frozenset({"model-old"}),
    instance_types=frozenset({"ml.g5.xlarge"}),
    failure_reason="the new fleet did not pass its health check",
)


@pytest.mark.parametrize(
    ("resource_type", "outputs", "named"),
    [
        (CONFIGURATION, {"name": "config-old"}, "the configuration config-old"),
        (MODEL, {"name": "model-old"}, "the model model-old"),
    ],
)
def test_what_a_rolled_back_endpoint_runs_is_kept_and_the_reason_said(
    resource_type, outputs, named
):
    """A silent rollback is reported as success (TF #48997), so the deletion is what fails."""
    with pytest.raises(StillLiveError, match=named) as raised:
        refuse_if_live(LIVE, "async-prod", resource_type, outputs)

    assert "did not pass its health check" in str(raised.value)
    assert "pulumi up" in str(raised.value), "it says what to do"


@pytest.mark.parametrize(
    ("resource_type", "outputs"),
    [
        (CONFIGURATION, {"name": "config-older"}),
        (MODEL, {"name": "model-older"}),
    ],
)
def test_what_the_endpoint_no_longer_runs_may_go(resource_type, outputs):
    refuse_if_live(LIVE, "async-prod", resource_type, outputs)
