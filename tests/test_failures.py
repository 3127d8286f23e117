"""What goes wrong with the local stack is said in one sentence, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import local_stack
from tests.local import Local

pytestmark = pytest.mark.docker


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Local]:
    """A stack of the test's own, not yet up; at the end nothing but data may be left."""
    with local_stack(tmp_path, service="mlflow-failing") as made:
        yield made
        assert left(made) == []


def left(stack: Local) -> list[str]:
    """Return what is left of a stack, other than its data and its images."""
    label = {"label": "mlflow-local=mlflow-failing"}
    containers = [found.name for found in stack.engine.containers.list(all=True, filters=label)]
    networks = [found.name for found in stack.engine.networks.list(filters=label)]
    volumes = [found.name for found in stack.engine.volumes.list(filters=label)]
    return containers + networks + volumes


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_port_that_is_taken(stack: Local) -> None:
    for offset in range(3):
        with socket.create_server(("127.0.0.1", stack.port + offset)):
            done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
        assert f"port {stack.port + offset} of this machine is taken" in done.stderr
        assert left(stack) == []


def test_a_build_that_fails(stack: Local) -> None:
    edit(stack.folder / "Dockerfile", "WORKDIR /tmp", "RUN echo the cause && exit 7")
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert "building mlflow-failing-local-image failed" in done.stderr
    assert "the cause" in done.stderr
    assert "returned a non-zero code: 7" in done.stderr


def test_an_image_that_no_registry_has(stack: Local) -> None:
    edit(stack.folder / "invoke.yaml", "postgres: postgres:17", "postgres: localhost:1/postgres:17")
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert "localhost:1/postgres:17 cannot be pulled" in done.stderr


def test_a_container_that_dies_at_start(stack: Local) -> None:
    edit(stack.folder / "start.sh", "main() {\n", 'main() {\n  say "the cause"\n  return 9\n')
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert "the container mlflow-failing-local-mlflow ended (exit code 9)" in done.stderr
    assert done.stderr.rstrip().endswith("start.sh: the cause")


def test_an_open_proxy_configuration_does_not_start(stack: Local) -> None:
    edit(stack.folder / "oauth2-proxy.cfg", "reverse_proxy = false", "reverse_proxy = true")
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert "reverse_proxy = true is refused: callers could then choose" in done.stderr


def test_an_unknown_proxy_setting_does_not_start(stack: Local) -> None:
    edit(stack.folder / "oauth2-proxy.cfg", "reverse_proxy = false", "revers_proxy = false")
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert "revers_proxy" in done.stderr


def test_too_little_memory_is_named(stack: Local) -> None:
    edit(stack.folder / "deployment/rules.py", "LEAST_MEMORY = {1: 512", "LEAST_MEMORY = {1: 1")
    edit(stack.folder / "invoke.yaml", "memory: 512Mi", "memory: 40Mi")
    done = stack.invoke("local-up", "--detach", "--port", str(stack.port), fails=True)
    assert re.search(r"ended \((out of memory|exit code 1)\)", done.stderr), done.stderr


def foreground(stack: Local) -> subprocess.Popen[str]:
    """Start local-up as in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", "local-up", "--port", str(stack.port)],
        cwd=stack.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # As a terminal's programs do it hears Ctrl-C, even if whoever runs the checks does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read the task's output up to these words."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return
    raise AssertionError(seen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", ["image     built", "database  ready", "MLflow is up", '"severity"'])
def test_ctrl_c_leaves_nothing_behind(stack: Local, words: str, number: signal.Signals) -> None:
    process = foreground(stack)
    read_until(process, words)
    os.killpg(process.pid, number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert left(stack) == []


def test_a_container_that_dies_later_ends_the_task(stack: Local) -> None:
    process = foreground(stack)
    read_until(process, "MLflow is up")
    stack.container("mlflow").kill()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the container mlflow-failing-local-mlflow ended (exit code 137)" in rest


def test_stopped_from_elsewhere(stack: Local) -> None:
    process = foreground(stack)
    read_until(process, "MLflow is up")
    stack.invoke("local-down")
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert rest.rstrip().endswith("the local stack was stopped from elsewhere")


def test_tasks_of_a_stack_that_is_not_up(stack: Local) -> None:
    assert "`invoke local-up` starts it" in stack.invoke("local-logs", fails=True).stderr
    token = stack.invoke("local-token", "--port", str(stack.port), fails=True)
    assert "`invoke local-up` starts it" in token.stderr
    assert stack.invoke("local-down").stdout.startswith("nothing was running")


def test_twice_is_as_once_and_fresh_empties(stack: Local) -> None:
    stack.up()
    made = stack.session().post(
        f"{stack.url}/api/2.0/mlflow/experiments/create", json={"name": "kept"}, timeout=30
    )
    assert made.ok
    stack.up()
    assert ("kept",) in stack.sql("select name from experiments")
    others = [
        stack.engine.volumes.create(name)  # of services whose names hold or continue this one's
        for name in ("a-mlflow-failing-local-database", "mlflow-failing-local-local-database")
    ]
    refused = stack.invoke("local-up", "--detach", "--fresh", "--port", str(stack.port), fails=True)
    assert "This deletes mlflow-failing-local-database, mlflow-failing-local-storage" in refused.stdout
    stack.up("--fresh", "--yes")
    assert stack.sql("select name from experiments") == [("Default",)]
    stack.assert_log_is_clean()
    stack.invoke("local-down", "--data", "--yes")
    left_over = stack.engine.volumes.list(filters={"name": "mlflow-failing-local-"})
    assert {volume.name for volume in left_over} == {volume.name for volume in others}
    for volume in others:
        volume.remove()
