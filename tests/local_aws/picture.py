"""Draws docs/images/local-page.png: two bursts on an embedded AWS, as its page shows them.

python -m tests.local_aws.picture
"""

import base64
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track as with_progress

from async_inference.local_aws.fleet.processes import ProcessTemplate
from async_inference.local_aws.server import LocalAws, Options
from tests.support import ROOT
from tests.support.browser import chromium, emulate
from tests.support.embedded_aws import Account
from tests.support.scaling import TARGET, track, wake
from tests.support.waiting import eventually

PICTURE = ROOT / "docs" / "images" / "local-page.png"
SIZE = (1000, 800)
MINUTE_S = 0.5
SETUP_S = 240.0
BURSTS = (20, 34)
BETWEEN_BURSTS_MINUTES = 55
SERVICE = """
import time
def model_fn(folder): return None
def input_fn(data, content_type):
    if data == b"poison": raise ValueError("poison")
    return data
def predict_fn(data, model):
    time.sleep(0.7)
    return data
def output_fn(prediction, accept): return prediction
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        browser = chromium(Path(folder) / "browser")
        if browser is None:
            print("error: no Chromium with its driver to draw with", file=sys.stderr)
            return 2
        template = ProcessTemplate()
        options = Options(folder=Path(folder) / "aws", minute_s=MINUTE_S, setup_s=SETUP_S)
        aws = LocalAws(options, template)
        aws.start()
        try:
            live_through_bursts(Account(aws))
            emulate(browser, "light", SIZE)
            browser.get(f"{aws.url}/_local/")
            eventually(lambda: browser.title.endswith("echo"), "the page")
            bottom = browser.execute_script(
                "return document.getElementById('charts').getBoundingClientRect().bottom"
            )
            clip = {"x": 0, "y": 0, "width": SIZE[0], "height": bottom + 12, "scale": 1}
            shot = browser.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
            )
        finally:
            aws.stop()
            template.close()
            browser.quit()
    PICTURE.write_bytes(base64.b64decode(shot["data"]))
    return 0


def live_through_bursts(account: Account) -> None:
    dice = random.Random(7)
    account.deploy(code=SERVICE)
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    track(account)
    wake(account)
    pauses_minutes: list[float] = []
    for requests in BURSTS:
        pauses_minutes += [BETWEEN_BURSTS_MINUTES, *(dice.random() for _ in range(requests))]
    for pause in with_progress(pauses_minutes, description="two bursts"):
        time.sleep(pause * MINUTE_S)
        body = b"poison" if dice.random() < 0.1 else b"an image, please"
        account.runtime.invoke_endpoint_async(EndpointName="echo", Body=body)


if __name__ == "__main__":
    sys.exit(main())
