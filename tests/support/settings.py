"""A stack's settings, the defaults but for what a test says."""

from async_inference.stack import settings
from async_inference.stack.settings import PROJECT, Settings
from tests.support import ROOT


def config(**changes: object) -> dict[str, object]:
    return {"aws:region": "us-east-1"} | {
        f"{PROJECT}:{key}": value for key, value in changes.items()
    }


def stack(name: str = "dev", **values: object) -> Settings:
    given = {
        "aws:region": "us-east-1",
        "async-inference:handler": str(ROOT / "inference_code"),
        **{f"async-inference:{key}": value for key, value in values.items()},
    }
    return settings.load(given, stack=name)
