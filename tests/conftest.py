"""Rendering, which every test begins with, and one local stack for those that need it."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from copier.errors import DirtyLocalWarning

from tests.local import Local

ROOT = Path(__file__).parent.parent
QUESTIONS = {
    name: value
    for name, value in yaml.safe_load((ROOT / "copier.yml").read_text()).items()
    if not name.startswith("_") and value.get("when") is not False
}
ANSWERS = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob("tests/answers/*.yml")}
Render = Callable[..., Path]


def render_to(folder: Path, answers: str = "", **overrides: Any) -> Path:
    """Render this checkout, uncommitted changes included.

    Args:
        folder: where to.
        answers: a name in tests/answers; the default answers when empty.
        overrides: single answers. One that is no question is refused: Copier would ignore it.
    """
    data = {**(ANSWERS[answers] if answers else {}), **overrides}
    unknown = set(data) - set(QUESTIONS)
    assert not unknown, f"no questions: {unknown}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DirtyLocalWarning)
        copier.run_copy(str(ROOT), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Render into a folder of the test's own."""
    return lambda answers="", **overrides: render_to(tmp_path / "project", answers, **overrides)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default answers' project. Read it only."""
    return render_to(tmp_path_factory.mktemp("default") / "project")


def free_ports() -> int:
    """Return the first of three free ports in a row."""
    for first in range(20180, 30000, 10):
        try:
            for port in range(first, first + 3):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return first
    raise AssertionError("no three free ports in a row")


@contextmanager
def local_stack(folder: Path, first: int = 0, **answers: Any) -> Iterator[Local]:
    """Render a project and hand out its local stack, not yet up; afterwards nothing of it is left.

    Args:
        folder: where to.
        first: its first port; free ones when 0.
        answers: as render_to() takes them.
    """
    stack = Local(render_to(folder / "project", **answers), first or free_ports())
    stack.invoke("local-down", "--data", "--yes")
    try:
        yield stack
    finally:
        stack.invoke("local-down", "--data", "--yes")


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The default answers' local stack, up, beside any that is in use. Its log must be clean."""
    with local_stack(tmp_path_factory.mktemp("local"), service="mlflow-checks") as stack:
        stack.up()
        yield stack
        stack.assert_log_is_clean()
