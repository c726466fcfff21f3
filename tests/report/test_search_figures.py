"""Which coefficients matter, of a study made anew, and what plots of the search hold."""

from __future__ import annotations

import pytest
from logged_sweeps import Training, imagined

from aln.report.search_figures import diverged_shares, history, slices
from aln.report.study import importances, rebuilt_study

PARAMETERS = {
    "rule.alpha": {"min": 1e-4, "max": 1e-1, "log": True},
    "rule.beta": {"min": 0.0, "max": 1.0},
    "rule.input_distribution": {"values": [None, "normal"]},
}


def trainings() -> list[Training]:
    """Alpha decides: the larger the better, and at the upper end training diverges; beta and noise do nothing."""
    found = []
    for i in range(30):
        exponent = (i * 7) % 30 / 10  # 0 to 2.9
        point = {
            "rule.alpha": 10 ** (-4 + exponent),
            "rule.beta": (i * 11) % 30 / 30,
            "rule.input_distribution": [None, "normal"][i % 2],
        }
        status = "diverged" if exponent > 2.5 else "stopped" if i == 0 else "completed"
        top1 = 0.0 if status == "diverged" else 30 + 20 * exponent
        found.append(Training(label=f"{i:03d}", top1=[top1], point=point, status=status))
    return found


@pytest.mark.parametrize("objective", ["val_top1", "train_loss"], ids=["max", "min"])
def test_what_decides_is_important_whichever_way_is_better(objective: str) -> None:
    made = trainings()
    if objective == "train_loss":
        made = [Training(**{**vars(one), "metrics": {"train_loss": 100 - one.top1[0]}}) for one in made]
    sweep = imagined(made, {"rule": "mirror", "parameters": PARAMETERS}, objective=objective)
    study = rebuilt_study(sweep)
    assert len(study.trials) == sum(one.status == "completed" for one in made)
    shares = importances(study)
    assert next(iter(shares)) == "rule.alpha"
    assert shares["rule.alpha"] > 0.5
    best = max(made, key=lambda one: one.top1[0])
    assert study.best_params == dict(best.point)


def test_plots_hold_what_the_trials_reached() -> None:
    sweep = imagined(trainings(), {"rule": "mirror", "parameters": PARAMETERS})
    marks = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in history(sweep).data}
    assert marks["stopped early"] == [(0, 30)]
    assert len(marks["diverged"]) == 4
    assert {value for _, value in marks["diverged"]} == {0}
    values = [value for _, value in marks["best so far"]]
    assert values == sorted(values)
    assert values[-1] == 80
    alpha, beta, noise = slices(sweep)
    assert alpha.layout.xaxis.type == "log"
    assert alpha.layout.xaxis.range[0] < -4 < -1 < alpha.layout.xaxis.range[1]
    assert [beta.layout.xaxis.title.text, noise.layout.xaxis.ticktext] == ["rule.beta", ("null", "normal")]
    (bars,) = diverged_shares(sweep)[0].data
    shares = dict(zip(bars.x, bars.y, strict=True))
    assert shares["0.032 – 0.1"] == 80  # 4 of 5
    assert set(shares.values()) == {0, 80}
    assert "0.0001 – 0.00032" in shares
