"""A protection is taken out, and every test that claims it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, render_to
from tests.without.protections import PROTECTIONS, take_out

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def failed(folder: Path, *tests: str, **environment: str) -> tuple[list[str], str]:
    """Run tests; return the ids of those that failed, and all that was said."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )
    return re.findall(r"^FAILED (.+)$", done.stdout, re.MULTILINE), done.stdout + done.stderr


@pytest.mark.parametrize("name", PROTECTIONS)
def test_without(name: str, tmp_path: Path) -> None:
    tests = PROTECTIONS[name].tests
    stack = [test for test in tests if (ROOT / "tests/abuse" / test.partition("::")[0]).exists()]
    own = [test for test in tests if test not in stack]
    found: list[str] = []
    said = ""
    if own:
        project = render_to(tmp_path / "project")
        take_out(name, project)
        found, said = failed(project, *(f"tests/{test}" for test in own))
    if stack:
        files = {f"tests/abuse/{test.partition('::')[0]}" for test in stack}
        more, words = failed(ROOT, *sorted(files), ABUSE="local", WITHOUT=name)
        found, said = found + [test.replace("tests/abuse/", "tests/", 1) for test in more], said + words
    unmoved = [test for test in tests if not any(line.startswith(f"tests/{test}") for line in found)]
    assert not unmoved, said
