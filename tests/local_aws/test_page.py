"""The page of the embedded AWS in a real browser: it shows what happens, and keeps its manners."""

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from async_inference.local_aws.server import LocalAws, Options
from tests.support.browser import DESK, PHONE, chromium, emulate
from tests.support.embedded_aws import Account
from tests.support.scaling import FAST_MINUTE_S, TARGET, track, wake
from tests.support.waiting import eventually

pytestmark = pytest.mark.clients

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
READABLE_CONTRAST = 4.5
"""The least contrast of text that WCAG 2 level AA allows."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    chrome = chromium(tmp_path_factory.mktemp("browser"))
    if chrome is None:
        pytest.skip("no Chromium with its driver; as root: apt-get install chromium-driver")
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser) -> "Page":
    return Page(browser)


class Page:
    """What a person sees of the page."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def open(
        self, url: str, theme: str = "light", size: tuple[int, int] = DESK, choice: str = ""
    ) -> None:
        emulate(self.browser, theme, size)
        self.browser.get("about:blank")
        self.complaints()
        self.browser.get(f"{url}/_local/{choice}")
        eventually(lambda: self.state() == "live", "a live page")

    def state(self) -> str | None:
        return self.script("return document.body.dataset.state")

    def text(self, selector: str) -> str:
        return self.script("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return Array.from(document.querySelectorAll(arguments[0]), n => n.innerText)"
        return self.script(script, selector)

    def tile(self, name: str) -> str:
        tiles = dict(text.split("\n", 1) for text in self.texts("#tiles > div"))
        return tiles[name].split("\n")[0]

    def count(self, selector: str) -> int:
        return self.script("return document.querySelectorAll(arguments[0]).length", selector)

    def script(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def complaints(self) -> list[dict[str, object]]:
        """What the browser's console said since the last time."""
        return self.browser.get_log("browser")


@pytest.fixture
def account(start) -> Account:
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    return account


def test_it_shows_an_endpoint_fall_asleep_wake_and_answer_without_being_reloaded(page, account):
    page.open(account.aws.url)
    page.script("window.sameDocument = true")
    track(account)
    wake(account)
    eventually(lambda: page.text("#summary").startswith("Asleep"), "the endpoint asleep")

    account.read(account.submit(b"wake up")["OutputLocation"])
    account.submit(b"poison")

    eventually(lambda: "1 done, 1 failed" in page.text("#charts"), "both answers counted")
    eventually(lambda: page.text("#summary").startswith("Asleep"), "the endpoint asleep again")
    assert page.tile("Instances in service") == "0"
    assert page.tile("Backlog") == "0"
    assert page.count("#charts .done") >= 1
    assert page.count("#charts .failed") >= 1
    assert page.count("#charts .mark.out") >= 1, "the scale-out is marked"
    assert page.count("#charts .mark.in") >= 2, "so is each scale-in"
    assert page.count("#charts rect.ALARM") >= 2, "of both alarms that scaled"
    assert any("in state ALARM triggered policy wake-up" in row for row in page.texts("tr.scaled"))
    assert page.script("return window.sameDocument") is True
    assert page.complaints() == []


def test_all_charts_have_one_time_axis_and_one_cursor(page, account):
    wake(account)
    page.open(account.aws.url)
    eventually(lambda: page.count("#charts figure") == 7, "seven charts")

    page.browser.find_element(By.ID, "charts").send_keys(Keys.ARROW_LEFT)

    positions = eventually(
        lambda: page.script(
            "return Array.from(document.querySelectorAll('.cursor'), n => n.getAttribute('x1'))"
        ),
        "a cursor",
    )
    assert len(positions) == page.count("#charts svg")
    assert len(set(positions)) == 1
    assert "UTC: backlog" in page.text("#at")


def test_an_address_may_name_the_endpoint_and_the_hours_to_show(page, account):
    account.configure("other-1", "echo")
    account.sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="other-1")

    page.open(account.aws.url, choice="#endpoint=other&minutes=720")
    assert "runs other-1" in page.text("#tiles")
    assert page.text("#charts").count("Requests in 2 minutes") == 1, "thinned out"

    Select(page.browser.find_element(By.ID, "which")).select_by_visible_text("echo")

    eventually(lambda: "runs echo-1" in page.text("#tiles"), "the other endpoint")
    assert page.browser.current_url.endswith("#endpoint=echo&minutes=720")


def test_it_shows_what_the_instances_do(page, account):
    account.submit(b"slow")
    page.open(account.aws.url)

    (instance,) = eventually(
        lambda: [text for text in page.texts("#instances li") if "1 of 1 busy" in text],
        "an instance at work",
    )
    assert "in service" in instance
    assert page.text("#summary") == "At work: 1 instance on 1 request."
    assert page.tile("Backlog") == "1"


def test_it_says_why_an_update_was_rolled_back(page, account):
    account.configure("echo-2", "echo", code="raise RuntimeError('no model')")
    page.open(account.aws.url)

    account.sagemaker.update_endpoint(EndpointName="echo", EndpointConfigName="echo-2")

    eventually(lambda: "no model" in page.text("#problem"), "the reason on the page")
    assert page.text("#summary") == "Idle: 1 instance in service, nothing queued."
    assert "runs echo-1" in page.text("#tiles")


def test_it_says_when_the_embedded_aws_is_gone_and_when_it_is_back(page, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        options = Options(folder=tmp_path / "aws", port=free.getsockname()[1])
    aws = LocalAws(options)
    aws.start()
    page.open(aws.url)
    assert page.text("#empty") == "No endpoint yet. Deploy one: make up"

    aws.stop()

    eventually(lambda: page.state() == "gone", "a page that says it is gone")
    assert page.text("#gone").startswith("The embedded AWS does not answer since")
    assert "make up" in page.text("#gone")
    assert page.text("#connection") == "gone"

    again = LocalAws(options)
    again.start()
    try:
        eventually(lambda: page.state() == "live", "a live page again")
        assert page.script("return document.getElementById('gone').hidden")
    finally:
        again.stop()


def test_names_of_users_are_text_never_markup(page, account):
    arn = account.autoscaling.put_scaling_policy(
        **TARGET,
        PolicyName=HOSTILE,
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ExactCapacity",
            "StepAdjustments": [{"MetricIntervalUpperBound": 0, "ScalingAdjustment": 1}],
        },
    )["PolicyARN"]
    for name, metric, more in (
        (HOSTILE, HOSTILE, {}),
        (f"{HOSTILE} idle", "ApproximateBacklogSize", {"AlarmActions": [arn]}),
    ):
        account.cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Dimensions=[{"Name": "EndpointName", "Value": "echo"}],
            Statistic="Average",
            ComparisonOperator="LessThanOrEqualToThreshold",
            Threshold=0,
            Period=60,
            EvaluationPeriods=1,
            **more,
        )
    page.open(account.aws.url)

    eventually(
        lambda: any(HOSTILE in text for text in page.texts("#activities td")),
        "the policy's name in an activity",
    )
    assert any(HOSTILE in text for text in page.texts("#alarms td"))
    assert any(HOSTILE in text for text in page.texts("#charts figcaption"))
    assert page.count("img") == 0
    assert page.script("return document.title") != "owned"
    assert page.complaints() == []


def test_it_can_be_read_in_both_themes_and_on_a_phone(page, account):
    track(account)
    wake(account)
    page.open(account.aws.url)
    for theme, size in itertools.product(("light", "dark"), (PHONE, DESK)):
        emulate(page.browser, theme, size)
        eventually(lambda: page.count("#charts figure") == 9, "nine charts")

        assert page.script("return document.scrollingElement.scrollWidth") <= size[0]
        ratios = page.script(CONTRASTS)
        dim = {text: ratio for text, ratio in ratios if ratio < READABLE_CONTRAST}
        assert dim == {}, theme
        background = page.script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) / 3
        assert (brightness > 128) == (theme == "light")


CONTRASTS = """
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
  const linear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) =>
    node === null
      ? [255, 255, 255]
      : over(channels(getComputedStyle(node).backgroundColor), ground(node.parentElement));
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const below = ground(node.closest("svg") ? node.closest("section") : node);
    const ink = over(channels(node.closest("svg") ? style.fill : style.color), below);
    const [light, dark] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    found.push([walker.currentNode.data, (light + 0.05) / (dark + 0.05)]);
  }
  return found;
"""
