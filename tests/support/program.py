"""The program itself, to run under mocks with a stack file's config."""

import json
import runpy

import yaml

from tests.support import ROOT


def config_of(stack: str) -> dict[str, str]:
    """A stack's config as the engine hands it over: Pulumi.yaml's defaults, and all as text."""
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    defaults = {f"async-inference:{key}": schema["default"] for key, schema in declared.items()}
    given = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (defaults | given).items()
    }


def run() -> None:
    runpy.run_path(str(ROOT / "__main__.py"))


GUARDED = {
    "scalingPreset": "announced",
    "minCapacity": 2,
    "weights": "s3://weights/sdxl",
    "security": {
        "encryption": "customer",
        "networkIsolation": True,
        "subnetIds": ["subnet-0a1b2c3d"],
        "securityGroupIds": ["sg-0a1b2c3d"],
    },
    "observability": {"usdPerInstanceHour": 1.515, "monthlyBudgetUsd": 500},
    "updates": {"strategy": "canary", "rollback": True, "waitS": 60},
    "subscriptions": [
        {"topic": "operations", "protocol": "email", "address": "team@example.com"},
        {"topic": "error", "protocol": "https", "address": "https://example.com/hook"},
    ],
}
"""Everything that a stack can turn on, at once."""
STACKS = ("dev", "prod", "guarded")
"""The stack files, and prod with everything turned on."""
