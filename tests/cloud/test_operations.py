"""What one does with a deployed service: look, change, go back, rotate, under load and interrupted."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from docker.types import Mount

from emulator.apis.sqladmin import database
from emulator.database import GROUP as ROLE
from emulator.registry import local
from tests.cloud.conftest import CLIENT_SECRET, PROJECT, SERVICE, USER, Cloud, command_lines
from tests.test_database import OLDER

pytestmark = pytest.mark.docker
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"
MOST_CALLS = 6  # of gcloud, for a deploy that changes nothing


def test_the_whole_tree_is_deployed(deployed: Cloud) -> None:
    deployed.invoke("deploy")
    assert deployed.get(SEARCH, user=USER).status_code == 200


@contextmanager
def load(cloud: Cloud, clients: int = 3) -> Iterator[list[int]]:
    """Have programs ask the service all the while; hand out the statuses they got."""
    seen: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.05):
            seen.append(cloud.get(SEARCH, user=USER).status_code)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def revisions(cloud: Cloud) -> set[str]:
    return {key.rpartition("/")[2] for key in cloud.store["run_revisions"]}


def test_the_address_is_known_and_shown(deployed: Cloud, tmp_path: Path) -> None:
    assert deployed.invoke("url").strip() == f"https://{SERVICE}"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    deployed.invoke("open", BROWSER=str(browser))
    assert (tmp_path / "opened").read_text().strip() == f"https://{SERVICE}"


def test_status_shows_who_serves(deployed: Cloud) -> None:
    address, *lines = deployed.invoke("status").strip().splitlines()
    assert address == f"https://{SERVICE}"
    assert len(lines) == len(revisions(deployed))
    (serving,) = [line for line in lines if "100 %" in line]
    assert deployed.serving() in serving
    assert " ready " in serving


def test_logs_show_requests_and_what_the_container_said(deployed: Cloud) -> None:
    deployed.get(SEARCH, user=USER)
    said = deployed.invoke("logs", "--tail", "200")
    assert "GET 200" in said
    assert USER in said
    assert "mlflow.store.db.utils" in said
    assert deployed.invoke("logs", "--severity", "EMERGENCY").strip() == ""


def test_what_is_deployed_already_is_proved_and_left_alone(deployed: Cloud) -> None:
    before = revisions(deployed)
    said = deployed.invoke("--echo", "deploy")
    assert f"unchanged: {deployed.serving()} serves this already" in said
    assert "artifact down" in said
    assert revisions(deployed) == before
    calls = [line for line in said.splitlines() if "gcloud " in line]
    assert len(calls) <= MOST_CALLS, calls


def test_what_is_built_already_is_not_built_again(deployed: Cloud) -> None:
    builds = len(deployed.store["builds"])
    assert "unchanged: Artifact Registry has it already" in deployed.invoke("build", "push")
    assert len(deployed.store["builds"]) == builds


def test_doctor_finds_nothing_then_all_that_is_broken(deployed: Cloud) -> None:
    said = deployed.invoke("doctor")
    assert "!!" not in said

    store, name = deployed.store, f"b/{PROJECT}-mlflow"
    kept = json.loads(json.dumps([store["policies"], store["buckets"], store["sql_instances"]]))
    for binding in store["policies"][name]["bindings"]:
        binding["members"] = [m for m in binding["members"] if "mlflow-run" not in m]
    store["buckets"][f"{PROJECT}-mlflow"]["iamConfiguration"]["publicAccessPrevention"] = "inherited"
    (instance,) = store["sql_instances"].values()
    instance["settings"]["deletionProtectionEnabled"] = False
    try:
        with deployed.edited("invoke.yaml", '- "example.com"', '- "example.org"'):
            said = deployed.invoke("doctor", code=1)
    finally:
        for collection, before in zip(("policies", "buckets", "sql_instances"), kept, strict=True):
            store[collection].clear()
            store[collection].update(before)
    problems = [line.removeprefix("!!").strip() for line in said.splitlines() if line.startswith("!!")]
    assert problems == [
        f"bucket {PROJECT}-mlflow: public access prevention",
        "Cloud SQL instance mlflow: deletion protection",
        f"mlflow-run has roles/storage.objectAdmin on gs://{PROJECT}-mlflow",
        "the proxy's configuration",
    ]
    for remedy in (
        "--public-access-prevention",
        "--deletion-protection",
        "invoke provision",
        "invoke secrets",
    ):
        assert f"{remedy}" in said


def test_a_deploy_under_load_fails_no_request_and_can_be_taken_back(deployed: Cloud) -> None:
    first = deployed.serving()
    with deployed.changed():
        with load(deployed) as seen:
            deployed.invoke("deploy")
            second = deployed.serving()
            said = deployed.invoke("rollback")
        assert f"traffic: on {first}" in said
        assert second != first == deployed.serving()
        assert len(seen) > 20
        assert set(seen) == {200}
        assert "serves already" in deployed.invoke("rollback", "--revision", first, code=1)
        said = deployed.invoke("rollback", "--revision", "mlflow-99999-zzz", code=1)
        assert "mlflow-99999-zzz is no revision; give one with --revision: " in said
        deployed.invoke("rollback", "--revision", second)
        assert deployed.serving() == second
    deployed.invoke("deploy")


def test_an_older_schema_is_upgraded(deployed: Cloud) -> None:
    """As the MLflow of some releases ago left it, empty."""
    cloud, version = deployed.emulator.cloud, "select version_num from alembic_version"
    cloud.run.scale_down(0)
    newest, sockets = deployed.sql(version), database(cloud, PROJECT, "mlflow").socket_volume
    deployed.sql(f"drop schema public cascade; create schema public; alter schema public owner to {ROLE}")
    (revision,) = [f for k, f in deployed.store["run_revisions"].items() if k.endswith(deployed.serving())]
    cloud.engine.client.containers.run(
        local(cloud, revision["status"]["imageDigest"]),
        entrypoint=["python3", "-W", "ignore", "-c", OLDER],
        environment={"BACKEND_STORE_URI": deployed.secret("mlflow-backend-store-uri")},
        mounts=[Mount(f"/cloudsql/{PROJECT}:europe-west1:mlflow", sockets)],
        remove=True,
    )
    assert deployed.sql(version) != newest
    assert deployed.get(SEARCH, user=USER).status_code == 503
    assert "schema: this MLflow's" in deployed.invoke("migrate")
    assert deployed.sql(version) == newest
    assert deployed.get(SEARCH, user=USER).status_code == 200


def test_both_addresses_answer(deployed: Cloud) -> None:
    (service,) = deployed.store["run_services"].values()
    for url in json.loads(service["metadata"]["annotations"]["run.googleapis.com/urls"]):
        assert deployed.get(SEARCH, urlsplit(url).netloc, user=USER).status_code == 200, url


def test_the_database_password_rotates_under_load(deployed: Cloud) -> None:
    old, before = deployed.login(), deployed.serving()
    assert deployed.signs_in(*old)
    with load(deployed) as seen, command_lines() as heard:
        said = deployed.invoke("secrets", "--rotate", "database", "--drain", "1")
    new = deployed.login()
    assert new[0] != old[0]
    assert deployed.signs_in(*new)
    assert not deployed.signs_in(*old)
    assert deployed.serving() != before
    assert f"user {old[0]}: its old password is worth nothing now" in said
    assert len(seen) > 20
    assert set(seen) == {200}
    assert [line for line in heard if "--flags-file" in line]
    for password in (old[1], new[1]):
        assert password not in said
        assert not [line for line in heard if password in line]


def test_a_rotation_that_was_killed_goes_on_where_it_was(deployed: Cloud) -> None:
    old, before = deployed.login(), deployed.versions("mlflow-backend-store-uri")
    assert deployed.interrupted(
        "secretmanager.projects.secrets.addVersion", "secrets", "--rotate", "database"
    )
    assert deployed.get(SEARCH, user=USER).status_code == 200
    said = deployed.invoke("secrets", "--rotate", "database", "--drain", "0")
    assert "going on where it was left" in said
    assert deployed.versions("mlflow-backend-store-uri") == before + 1
    assert deployed.signs_in(*deployed.login())
    assert not deployed.signs_in(*old)
    assert deployed.get(SEARCH, user=USER).status_code == 200


def test_no_secret_is_in_a_log(deployed: Cloud) -> None:
    """Neither what containers wrote, nor a build's log, nor what the emulated cloud says of each call."""
    folder = deployed.folder / "cloud"
    files = [folder / "logs.jsonl", *(folder / "builds").iterdir(), *(folder / "gcloud").rglob("*.log")]
    text = "".join(file.read_text(errors="replace") for file in files)
    text += json.dumps(deployed.emulator.cloud.calls)
    config = tomllib.loads(deployed.secret("mlflow-oauth2-proxy"))
    for secret in (deployed.login()[1], CLIENT_SECRET, config["cookie_secret"]):
        assert secret not in text
    assert deployed.secret("mlflow-crypto-passphrase") not in text


def test_rotate_takes_two_words(deployed: Cloud) -> None:
    assert "--rotate is 'all': give cookie or database" in deployed.invoke(
        "secrets", "--rotate", "all", code=1
    )
