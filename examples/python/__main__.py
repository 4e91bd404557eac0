"""Two models in one program: images that sleep at zero, and transcripts that are awake by day.

A Python program needs no plugin: it uses the classes themselves. Run it with this repository's root
on PYTHONPATH and the packages of plugin/requirements.txt.
"""

from pathlib import Path

import pulumi

from async_inference.scaling.plan import DOCUMENTED, ScalingRules, ScheduledAction
from async_inference.stack.groups import Security
from components.async_endpoint import AsyncEndpoint, AsyncEndpointArgs

REGION = "us-east-1"
HANDLER = Path(__file__).resolve().parents[2] / "inference_code"

images = AsyncEndpoint(
    "images",
    AsyncEndpointArgs(
        endpoint_name="images",
        region=REGION,
        instance_type="ml.g5.2xlarge",
        max_capacity=3,
        scaling_preset="tuned",
        handler=HANDLER,
        security=Security(encryption="customer"),
    ),
)
transcripts = AsyncEndpoint(
    "transcripts",
    AsyncEndpointArgs(
        endpoint_name="transcripts",
        region=REGION,
        instance_type="ml.g4dn.xlarge",
        max_capacity=2,
        scaling_preset="custom",
        scaling_plan=ScalingRules(
            policies=DOCUMENTED.policies,
            schedules=(
                ScheduledAction(
                    name="day",
                    schedule="cron(0 8 ? * MON-FRI *)",
                    timezone="Europe/Zurich",
                    min_capacity=1,
                ),
                ScheduledAction(
                    name="night",
                    schedule="cron(0 18 ? * MON-FRI *)",
                    timezone="Europe/Zurich",
                    min_capacity=0,
                ),
            ),
        ),
        handler=HANDLER,
        weights="tiny",
    ),
)

pulumi.export("images", images.endpoint_name)
pulumi.export("transcripts", transcripts.endpoint_name)
