"""What the documents say of speed and size is what was measured; what is measured is still there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.goals import GOALS
from benchmarks.levers import LEVERS, Lever, take_out
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


@pytest.mark.parametrize("lever", LEVERS, ids=lambda lever: lever.name)
def test_every_lever_can_be_taken_out(lever: Lever, tmp_path: Path) -> None:
    for name in {name for name, _, _ in lever.edits}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / "template" / name, tmp_path / name)
    take_out(lever, tmp_path)
    with pytest.raises(ValueError, match="no longer has"):
        take_out(lever, tmp_path)
