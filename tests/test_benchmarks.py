"""What the documents say of speed and size is what was measured; what is measured is still there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.goals import GOALS
from benchmarks.levers import LEVERS, TRIED, Lever, take_out
from tests.conftest import ROOT


@pytest.mark.parametrize("document", report.DOCS, ids=lambda path: path.name)
def test_the_documents_show_the_newest_results(document: Path) -> None:
    results = report.newest()
    assert results
    text = document.read_text()
    assert report.filled(text, results) == text
    assert "| what | goal | measured |" in text


def test_every_goal_was_measured() -> None:
    results = report.newest()
    assert results
    assert {goal.needs for goal in GOALS} <= set(results)


@pytest.mark.parametrize("lever", [*LEVERS, *TRIED], ids=lambda lever: lever.name)
def test_every_lever_can_be_taken_out(lever: Lever, tmp_path: Path) -> None:
    for name in {name for name, _, _ in lever.edits}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / "template" / name, tmp_path / name)
    take_out(lever, tmp_path)
    changed = {name: (tmp_path / name).read_text() for name, _, _ in lever.edits}
    assert all(text != (ROOT / "template" / name).read_text() for name, text in changed.items())
    (tmp_path / lever.edits[0][0]).write_text("")
    with pytest.raises(ValueError, match="no longer has"):
        take_out(lever, tmp_path)
