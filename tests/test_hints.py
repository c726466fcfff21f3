"""What was probably meant by a name that is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from aln.hints import hint, hint_of_path, nearest


@pytest.mark.parametrize(("word", "found"), [("fedback", "feedback"), ("miror", "mirror"), ("xyz", None)])
def test_nearest(word: str, found: str | None) -> None:
    assert nearest(word, ["feedback", "mirror"]) == found


def test_a_hint_ends_a_message() -> None:
    assert hint("miror", ["mirror"], "rule.{}") == "; did you mean 'rule.mirror'?"
    assert hint("xyz", ["mirror"]) == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("spaces/infomation.yaml", "spaces/information.yaml"),
        ("spaces/information", "spaces/information.yaml"),
        ("space/infomation.yaml", "spaces/information.yaml"),
        ("spaces/xyz", None),
        ("spaces/information.yaml/more", None),
    ],
)
def test_a_path_is_put_right_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spaces").mkdir()
    Path("spaces/information.yaml").touch()
    for folder in (Path(), tmp_path):
        expected = "" if meant is None else f"; did you mean '{folder / meant}'?"
        assert hint_of_path(folder / written) == expected
