"""Killed after some API call and run again: the same as if it had run through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import SWEEP, USER, Cloud

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600 if SWEEP else 300)]
WHERE = "--region=europe-west1"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
EVERY = range(1, 1000)  # call, until the task ends before
READS = (".get", ".list", ".getIamPolicy", ".refresh_token")


class Kills:
    """Kills a task after each of these of its API calls, the last time not, for it has ended before.

    What a call that only reads leaves is what the call before it left: the task is completed from there
    once.
    """

    def __init__(self, task: str, points: Iterable[int]) -> None:
        """Prepare to kill a task."""
        self.task, self.points = task, points
        self._known: set[tuple[str, ...]] = set()

    def __iter__(self) -> Iterator[int]:
        """Yield the points up to the first that is not reached."""
        self.reached = True
        for at in self.points:
            if not self.reached:
                return
            yield at
        assert self.reached != SWEEP, f"{self.task} has another number of calls: mend the points"

    def leaves_something_new(self, cloud: Cloud, at: int) -> bool:
        """Kill it, and say whether another kill has left the same."""
        begin = len(cloud.emulator.cloud.calls)
        self.reached = cloud.interrupted(at, self.task)
        methods = [call["method"] for call in cloud.emulator.cloud.calls[begin:]]
        effects = tuple(sorted(method for method in methods if not method.endswith(READS)))
        new = effects not in self._known or not self.reached
        self._known.add(effects)
        print(f"{self.task}, call {at}: {'killed' if self.reached else 'ended before'}{', new' * new}")
        return new


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a cloud holds when provision ran through."""
    cloud = Cloud(tmp_path_factory.mktemp("whole"))
    with cloud.emulator:
        try:
            cloud.invoke("provision")
            return cloud.state()
        finally:
            cloud.emulator.wipe()


@pytest.mark.parametrize("points", [EVERY] if SWEEP else [[5], [24]], ids=str)
def test_provision(points: Iterable[int], whole: dict[str, Any], tmp_path: Path) -> None:
    kills = Kills("provision", points)
    for at in kills:
        cloud = Cloud(tmp_path / str(at))
        with cloud.emulator:
            try:
                if kills.leaves_something_new(cloud, at):
                    cloud.invoke("provision")
                    assert cloud.state() == whole
                    assert cloud.versions("mlflow-backend-store-uri") == 1
                    user, password = cloud.login()
                    assert cloud.signs_in(user, password)
                    assert not cloud.signs_in(user, "another")
            finally:
                cloud.emulator.wipe()


def completes(cloud: Cloud, known: int) -> None:
    """Deploy once more; one revision serves then, as the settings want it, and nothing is doubled."""
    cloud.invoke("deploy")
    (service,) = cloud.store["run_services"].values()
    traffic = [(one.get("percent", 0), one.get("tag", "")) for one in service["status"]["traffic"]]
    assert sorted(traffic) == [(0, "candidate"), (100, "")]
    assert {one["revisionName"] for one in service["status"]["traffic"]} == {cloud.serving()}
    (wanted,) = re.findall("memory: (.*)", (cloud.project / "invoke.yaml").read_text())
    (serves,) = [f for k, f in cloud.store["run_revisions"].items() if k.endswith(f"/{cloud.serving()}")]
    assert serves["spec"]["containers"][0]["resources"]["limits"]["memory"] == wanted
    # What was killed may leave one behind, that nobody reaches.
    assert len(cloud.store["run_revisions"]) <= known + 1


@pytest.mark.parametrize("points", [EVERY] if SWEEP else [[5], [18], [33]], ids=str)
def test_deploy(points: Iterable[int], deployed: Cloud) -> None:
    kills, before = Kills("deploy", points), deployed.state()
    for at in kills:
        known = len(deployed.store["run_revisions"]) + 1
        with deployed.changed():
            new = kills.leaves_something_new(deployed, at)
            assert deployed.get(SEARCH, user=USER).status_code == 200
            if new:
                completes(deployed, known)
                assert deployed.state() == before


@pytest.mark.skipif(not SWEEP, reason="takes long: nox -s sweep")
def test_the_first_deploy(deployed: Cloud) -> None:
    kills, before = Kills("deploy", EVERY[::6]), deployed.state()
    for at in kills:
        deployed.gcloud("run", "services", "delete", "mlflow", WHERE)
        deployed.gcloud("run", "jobs", "delete", "mlflow-migrate", WHERE)
        kills.leaves_something_new(deployed, at)
        completes(deployed, known=2)
        assert deployed.state() == before
