"""The page of a report, from a real embedded MLflow store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from logged_sweeps import ALPHA, SPACE, Training, log_sweep, tracked

from aln.errors import ConfigError
from aln.report import __main__ as command
from aln.report.page import render, write_report
from aln.tracking import Reader

ANGLES = {f"angle/layers.{i}": 80.0 - i for i in range(3)}
BASELINES = [Training(label="backprop", kind="baseline", top1=[90, 97, 99], metrics={"test_top1": 98.5, **ANGLES})]


def trained(count: int, first: int = 0, **options: object) -> list[Training]:
    """Points that ran to the end, each a little better than the one before."""
    return [
        Training(label=f"{i:03d}", top1=[40, 60, 70 + i], point={"rule.alpha": 10 ** -(1.5 + i / 10)}, **options)  # type: ignore[arg-type]
        for i in range(first, first + count)
    ]


def page(*names: str) -> str:
    """The page without plotly's own code."""
    return render(tracked(*names), Reader()).partition("<body>")[2]


def plots(text: str) -> int:
    return len(re.findall(r'id="plot-\d+"', text))


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return text.partition(f"<h3>{title}")[2].partition("<h3>")[0]


def test_it_says_what_was_searched_on_what_and_how_it_ended(workplace: Path) -> None:
    endings = [
        Training(label="010", top1=[30], point={"rule.alpha": 0.05}, status="stopped"),
        Training(label="011", top1=[30, 0], point={"rule.alpha": 0.09}, status="diverged"),
    ]
    log_sweep(workplace, [*BASELINES, *trained(10), *endings], baselines=["backprop"])
    text = page()
    assert "mirror on digits, mlp, at most 3 epochs" in text
    assert "12 of 12 trials have begun: 10 completed, 1 stopped, 1 diverged." in text
    assert "rule.alpha</td><td>0.0001 … 0.1, log" in text
    assert "aln 0.1.0, torch 2.15.0" in text
    assert "009, best of 11" in text
    assert "optimistically biased" in text
    assert "Wilson, 360 images" in text
    assert "98.50" in text  # the baseline's test
    assert text.count("<pre>python -m aln.train backprop --set rule.name=mirror rule.alpha=") == 5
    for title in ("Optimisation", "Importance", "Objective against", "Parallel", "Early", "Where training"):
        assert plots(section(text, title)) == 1, title
    assert "or they are alike" in section(text, "Pairs")  # of one coefficient there is no pair
    assert "It measured no alignment" in section(text, "Alignment")


def test_nothing_is_asked_of_anybody_else(workplace: Path) -> None:
    log_sweep(workplace, trained(1))
    whole = render(tracked(), Reader())
    assert "default-src 'none'" in whole
    assert whole.count("plotly.js v") == 1
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=[\"'](?!data:)", whole.replace("{{", "")) == []


@pytest.mark.parametrize(
    ("trainings", "said"),
    [
        ([], "No searched trial has reported yet."),
        (trained(1), "there are 1."),
        (
            [Training(label="000", top1=[30, 0], point={"rule.alpha": 0.1}, status="diverged")],
            "No searched trial has ended",
        ),
        ([Training(label="000", top1=[], point={"rule.alpha": 0.1}, status="failed")], "1 failed"),
        ([Training(label="000", top1=[30], point={"rule.alpha": 0.1}, status="running")], "1 running"),
        ([*trained(9), Training(label="009", top1=[], point={}, status="running")], "9 completed, 1 running"),
    ],
    ids=["no-trial", "one-trial", "all-diverged", "failed", "running", "begun"],
)
def test_a_sweep_that_found_little_has_a_page(workplace: Path, trainings: list[Training], said: str) -> None:
    going_on = any(training.status == "running" for training in trainings)
    log_sweep(workplace, trainings, status=None if going_on else "completed", images=None)
    text = page()
    assert said in text
    assert "No baselines." in text
    assert ("still going on" in text) == going_on


def test_coefficients_that_are_not_always_there_are_drawn_where_they_are(workplace: Path) -> None:
    parameters = {**ALPHA, "rule.gamma": {"min": 1e-4, "max": 1e-1, "log": True, "when": {"rule.name": "information"}}}
    space = {"rule": {"values": ["mirror", "information"]}, "parameters": parameters}
    points = []
    for i in range(12):
        rule = ("mirror", "information")[i % 2]
        gamma = {"rule.gamma": 10 ** -(1 + i / 5)} if rule == "information" else {}
        point = {"rule.name": rule, "rule.alpha": 10 ** -(1 + i / 6), **gamma}
        points.append(Training(label=f"{i:03d}", top1=[50, 60 + i], point=point, metrics=ANGLES))
    log_sweep(workplace, points, space=space)
    text = page()
    assert "rule.gamma (of 6 trials)" in text
    assert "where rule.name is information" in text
    assert "011, best of 6" in text
    assert "010, best of 6" in text
    assert plots(section(text, "Importance")) == 1
    assert plots(section(text, "Pairs")) == 2  # where gamma is there, the rule does not differ
    for rule in ("information 011", "mirror 010"):
        assert plots(section(text, f"Alignment layer by layer: {rule}")) == 1


def test_several_sweeps_stand_side_by_side_with_the_deviation_over_seeds(workplace: Path) -> None:
    log_sweep(workplace, [*BASELINES, *trained(3)], baselines=["backprop"])
    seeds = [
        Training(
            label=f"000-s{i}",
            repetition=i,
            top1=[80.0 + i],
            point={"rule.alpha": 0.01},
            metrics={"images_per_second": 5e3},
        )
        for i in range(3)
    ]
    log_sweep(workplace, seeds, name="second", seeds=3, space={**SPACE, "rule": "symmetric"})
    text = page("first", "second")
    table = text.partition("<h2>Sweep first")[0]
    assert "81.00 ± 1.00" in table
    assert "t, 3 seeds" in table
    assert "5,000" in table
    assert "1.00" in table  # a trial's epoch takes as long as backprop's
    assert [name in text for name in ("<h2>Sweep first", "<h2>Sweep second")] == [True, True]


def test_several_objectives_have_their_front(workplace: Path) -> None:
    log_sweep(workplace, trained(4), objective=["val_top1", "train_seconds"], scheduler="none")
    text = page()
    assert plots(section(text, "Pareto front")) == 1


def test_names_cannot_leave_the_text(workplace: Path) -> None:
    log_sweep(workplace, trained(2))
    text = render(tracked(), Reader(), title="</title><script>alert(1)</script>")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_unknown_sweeps_are_all_named_with_those_that_are_near(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_sweep(workplace, [], name="mirror-digits")
    assert command.main(["miror-digits", "zzz", "--out", "page.html"]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"error: SWEEP: MLflow at sqlite:.* knows no sweep 'miror-digits'; did you mean 'mirror-digits'\?", error
    )
    assert re.search(r"error: SWEEP: .* knows no sweep 'zzz' \(known: mirror-digits\)", error)
    assert not Path("page.html").exists()


def test_a_sweep_of_which_mlflow_lacks_the_space_says_how_it_gets_there(workplace: Path) -> None:
    log_sweep(workplace, [])
    (lost,) = workplace.glob("mlartifacts/*/artifacts/space.yaml")
    lost.unlink()
    with pytest.raises(ConfigError, match=r"lacks space\.yaml of 'first': `python -m aln\.sweep --resume first` logs"):
        write_report(["first"], workplace / "page.html")


def test_mlflow_that_is_not_there_is_said(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert command.main(["first"]) == 2
    assert "error: MLflow at http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_the_command_writes_the_page(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_sweep(workplace, trained(1))
    assert command.main(["first", "--out", "out/page.html", "--title", "Monday"]) == 0
    assert capsys.readouterr().out == "Open out/page.html in a browser.\n"
    assert "<title>Monday</title>" in Path("out/page.html").read_text()
