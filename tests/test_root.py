"""This repository's own tasks: the two that the README begins with, and the pins they stand on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tests.conftest import ROOT, free_ports
from tests.without.protections import PROTECTIONS

INVOKE = [sys.executable, "-m", "invoke"]


def test_the_stand_ins_sources_are_the_pinned_versions(project: Path) -> None:
    pins = yaml.safe_load((project / "invoke.yaml").read_text())["deployment"]["images"]
    modules = (ROOT / "images/go.mod").read_text()
    for module, name in (
        ("github.com/oauth2-proxy/oauth2-proxy/v7", "oauth2_proxy"),
        ("github.com/fsouza/fake-gcs-server", "fake_gcs_server"),
    ):
        version = "v" + pins[name].rpartition(":")[2].removeprefix("v")
        assert f"\t{module} {version} " in modules


def test_the_proxy_is_new_enough(project: Path) -> None:
    """The releases before 7.15.4 have known ways around the login."""
    image = yaml.safe_load((project / "invoke.yaml").read_text())["deployment"]["images"]["oauth2_proxy"]
    version = tuple(map(int, re.fullmatch(r".+:v(\d+)\.(\d+)\.(\d+)", image).groups()))  # type: ignore[union-attr]
    assert version >= (7, 15, 4)


def test_mlflow_is_one_version_everywhere() -> None:
    files = (
        "template/server/requirements.in",
        "template/server/requirements.lock",
        "template/examples/requirements.txt",
        "requirements-checks.in",
        "requirements-checks.lock",
    )
    found = {re.search(r"^mlflow==(\S+)", (ROOT / name).read_text(), re.MULTILINE)[1] for name in files}  # type: ignore[index]
    assert len(found) == 1


def test_every_lock_has_hashes_and_names_no_registry() -> None:
    locks = [path for path in ROOT.glob("**/*.lock") if "build" not in path.relative_to(ROOT).parts[:1]]
    locks = [path for path in locks if ".venv" not in path.parts and ".nox" not in path.parts]
    assert len(locks) >= 6
    for path in locks:
        text = path.read_text()
        pins = re.findall(r"^\S+==\S+(?: ;.*?)? \\$", text, re.MULTILINE)
        assert len(pins) == text.count("==") - text.count(" == ")
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Another service name, beside a stack that somebody uses; afterwards nothing of it is left."""
    made = {**os.environ, "INVOKE_DEPLOYMENT_SERVICE": "mlflow-root"}
    yield made
    command = [*INVOKE, "local-down", "--data", "--yes"]
    subprocess.run(command, cwd=ROOT / "build/project", env=made, check=True, capture_output=True)


@pytest.mark.docker
def test_local_up_proves_itself_and_ctrl_c_ends_it(environment: dict[str, str]) -> None:
    port = str(free_ports())
    process = subprocess.Popen(
        [*INVOKE, "local-up", "--port", port],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "Ctrl-C stops it" in line:
            break
    assert "MLflow is up, behind sign-in" in seen
    assert re.search(r"best run \w{32}: rmse 67\.98 with alpha 0\.01", seen), seen
    assert re.search(
        r"read back diabetes-elastic-net@champion, version \d+: predicts \[172\.7 102\.5\]", seen
    )
    command = [*INVOKE, "local-token", "--port", port]
    token = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert token.stdout.count(".") == 2
    assert token.stdout.strip() not in seen
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert "Traceback" not in rest
    assert docker.from_env().containers.list(all=True, filters={"label": "mlflow-local=mlflow-root"}) == []


@pytest.mark.docker
def test_images_are_there_the_second_time_at_once() -> None:
    done = subprocess.run([*INVOKE, "images"], cwd=ROOT, capture_output=True, text=True, check=True)
    states = [line.rpartition(": ")[2] for line in done.stdout.splitlines()[1:]]
    assert states == ["here"] * 4


def test_each_claim_was_seen_failing_without_its_protection() -> None:
    """Or is marked as what others do by themselves."""
    text = (ROOT / "docs/security.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "::" in line]
    taken_out = {test.partition("[")[0] for entry in PROTECTIONS.values() for test in entry.tests}
    names = {test.rpartition("::")[2] for test in taken_out}
    unseen = [claim for claim, tests in rows if not names & set(re.findall(r"::(\w+)", tests))]
    assert len(rows) > 30
    assert [claim for claim in unseen if not claim.endswith("°")] == []


def test_the_security_model_names_tests_that_exist() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"((?:template/)?tests/[\w/]+\.py)?::(\w+)", text)
    assert len(named) > 30
    file = ""
    for path, test in named:
        file = path or file  # further tests of one file are named without it
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
