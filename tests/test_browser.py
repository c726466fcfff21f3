"""A real sweep in a real browser: its report is drawn, asks nobody, fits and prints; MLflow compares its trials."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from aln.report import __main__ as command
from browser import as_wide_as, chromium, errors, needs_browser, requests
from mlflow_server import free_port, served
from real_sweeps import DIGITS, TINY, Tracked, sweep

pytestmark = needs_browser

SPACE = """
rule: information
parameters:
  rule.alpha: {min: 1e-4, max: 1e-2, log: true}
  rule.beta: {min: 1e-5, max: 1e-2, log: true}
  rule.gamma: {min: 1e-4, max: 1e-2, log: true}
  optimizer.lr: {min: 0.01, max: 0.1, log: true}
"""
# Plots whose picture holds a mark, a line, a bar or a heat map.
DRAWN = """
return [...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.trace, .hm, .contour').length);
"""
AXES = "return [...document.querySelectorAll('.js-plotly-plot .axis-title')].map(e => e.textContent)"
OUTSIDE = """
const wide = document.documentElement.clientWidth;
const scrolled = e => e.closest('.scroll, pre');
return [...document.body.querySelectorAll('*')].filter(e => !scrolled(e) && e.getBoundingClientRect().right > wide + 1)
  .map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> Path:
    """The folder of a finished sweep of four coefficients, with a baseline."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(empty_store, folder / "mlflow.db")
    settings = [
        *TINY,
        "run.epochs=3",
        "scheduler=none",
        "baselines=[backprop]",
        "run.alignment.every=1",
        "max_concurrent=1",
    ]
    (folder / "space.yaml").write_text(SPACE)
    arguments = ["space.yaml", "--sweep", str(DIGITS), "--name", "small", "--trials", "12", "--set", *settings]
    done = sweep(folder, *arguments, environment={"RAY_ADDRESS": ray_head})
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


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """MLflow's pages of the sweep."""
    with served(folder, free_port(), f"sqlite:///{folder / 'mlflow.db'}") as address:
        yield address


@pytest.fixture(scope="module")
def mlflow(server: str, folder: Path, browser: Chrome) -> Chrome:
    """The browser with the table of the sweep's experiment in it."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    experiment = Tracked(folder).parent.info.experiment_id
    browser.get(f"{server}/#/experiments/{experiment}?workflowType=machine_learning")
    wait_for(browser, "small")
    return browser


def wait_for(browser: Chrome, *texts: str) -> None:
    """Waits until the page shows all of these texts."""
    missing = list(texts)

    def there(browser: Chrome) -> bool:
        page = browser.find_element(By.TAG_NAME, "body").text
        missing[:] = [text for text in texts if text not in page]
        return not missing

    WebDriverWait(browser, 60).until(there, message=f"the page does not show {missing}")


def test_trials_are_nested_in_their_sweep_and_compared_by_what_was_searched(mlflow: Chrome, folder: Path) -> None:
    names = [link.text for link in mlflow.find_elements(By.CSS_SELECTOR, ".ag-row a")]
    assert names == ["small"]
    mlflow.find_element(By.CSS_SELECTOR, ".ag-row button").click()
    wait_for(mlflow, "backprop", "011")
    completed = [run for label, run in Tracked(folder).children.items() if label.isdigit()][:6]
    for run in completed:
        row = mlflow.find_element(By.CSS_SELECTOR, f".ag-row[row-id='{run.info.run_id}']")
        row.find_element(By.CSS_SELECTOR, "input[aria-label*='row selection']").click()
    wait_for(mlflow, "Compare")
    mlflow.find_element(By.XPATH, "//button[normalize-space()='Compare']").click()
    wait_for(mlflow, "Parallel Coordinates Plot", "Run details")
    WebDriverWait(mlflow, 30).until(lambda b: b.execute_script(AXES))
    # It begins with three parameters that differ, and the metric that runs were told first.
    assert mlflow.execute_script(AXES) == ["optimizer.lr", "rule.alpha", "rule.beta", "val_top1"]
    parameters = mlflow.find_element(By.CSS_SELECTOR, "input[role=combobox]")
    parameters.send_keys("rule.gamma")
    parameters.send_keys(Keys.ENTER)
    WebDriverWait(mlflow, 30).until(lambda b: "rule.gamma" in b.execute_script(AXES))


def test_metrics_of_layers_stand_together_and_plots_are_there(mlflow: Chrome, server: str, folder: Path) -> None:
    tracked = Tracked(folder)
    runs = f"{server}/#/experiments/{tracked.parent.info.experiment_id}/runs"
    mlflow.get(f"{runs}/{tracked.children['000'].info.run_id}/model-metrics")
    wait_for(mlflow, "angle\n(2)", "gradient_angle\n(2)")
    mlflow.get(f"{runs}/{tracked.parent.info.run_id}/artifacts/plots/coefficients.png")
    wait_for(mlflow, "best.yaml", "coefficients.png")
    picture = "return [...document.querySelectorAll('img')].map(i => i.naturalWidth)"
    WebDriverWait(mlflow, 30).until(lambda b: max(b.execute_script(picture), default=0) > 500)
