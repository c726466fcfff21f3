"""A real browser for tests: Chromium without a window, driven by Selenium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (_BROWSER and _DRIVER), reason="neither Chromium nor chromedriver on the PATH")


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """A browser of its own profile, which writes down what pages log and ask for."""
    options = ChromeOptions()
    options.binary_location = _BROWSER or ""
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader", "--hide-scrollbars"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which Chromium does not offer to root
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(_DRIVER))
    try:
        driver.set_page_load_timeout(120)
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def errors(browser: Chrome) -> list[str]:
    """What pages have complained of since this was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requests(browser: Chrome) -> list[str]:
    """What pages have asked for since this was last asked, themselves and what they carry left out."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:", "blob:", "chrome:"))]


def as_wide_as(browser: Chrome, width: int, height: int = 844) -> None:
    """Shows the page on a screen of so many pixels; windows do not get as narrow as telephones."""
    screen: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
