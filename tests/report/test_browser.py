"""A report of a real sweep in a real browser: everything is drawn, nothing is asked of anybody, it fits and prints."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from aln.report import __main__ as command
from browser import as_wide_as, chromium, errors, needs_browser, requests
from real_sweeps import DIGITS, REPOSITORY, TINY, sweep

pytestmark = needs_browser

# Plots whose picture holds a mark, a line, a bar or a heat map.
DRAWN = """
return [...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.trace, .hm, .contour').length);
"""
OUTSIDE = """
const wide = document.documentElement.clientWidth;
const scrolled = e => e.closest('.scroll, pre');
return [...document.body.querySelectorAll('*')].filter(e => !scrolled(e) && e.getBoundingClientRect().right > wide + 1)
  .map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """The folder of a finished sweep of two rules' trials and a baseline."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(empty_store, folder / "mlflow.db")
    settings = [*TINY, "run.epochs=3", "scheduler.grace=1", "baselines=[backprop]", "run.alignment.every=1"]
    space = str(REPOSITORY / "search_spaces/information.yaml")
    done = sweep(folder, space, "--sweep", str(DIGITS), "--name", "small", "--trials", "12", "--set", *settings)
    assert done.returncode == 0, done.out
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(folder: Path, browser: Chrome) -> Chrome:
    """The browser with the report in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command.main(["small", "--out", "report.html"]) == 0
    browser.get((folder / "report.html").as_uri())
    WebDriverWait(browser, 60).until(lambda b: all(b.execute_script(DRAWN)))
    return browser


def test_every_plot_is_drawn_and_nothing_is_asked_for(report: Chrome) -> None:
    placed = report.execute_script("return document.querySelectorAll('[id^=plot-]').length")
    assert len(report.execute_script(DRAWN)) == placed >= 15
    assert errors(report) == []
    assert requests(report) == []


def test_it_fits_a_telephone(report: Chrome) -> None:
    as_wide_as(report, 390)
    WebDriverWait(report, 30).until(lambda b: b.execute_script(OUTSIDE) == [])
    assert report.execute_script("return document.documentElement.scrollWidth") == 390
    assert errors(report) == []


def test_it_prints(report: Chrome) -> None:
    printed = report.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    pdf = base64.b64decode(printed)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") > 1
