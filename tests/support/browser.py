"""A Chromium without a window, as a person would have it: a theme, a size."""

import os
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PHONE, DESK = (390, 844), (1280, 900)


def chromium(profile: Path) -> webdriver.Chrome | None:
    """Start one with an empty profile; None where there is no Chromium with its driver."""
    named = Path(os.environ.get("CHROMEWEBDRIVER", ""), "chromedriver")
    program = _found("chromium", "chromium-browser", "google-chrome")
    driver = _found("chromedriver", str(named))
    if program is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def emulate(browser: webdriver.Chrome, theme: str, size: tuple[int, int]) -> None:
    """Prefer a theme, light or dark, on a screen of a size in pixels."""
    width, height = size
    preference = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
    )


def _found(*programs: str) -> str | None:
    return next(filter(None, map(shutil.which, programs)), None)
