"""The built image in the local stack: every feature through the proxy, with MLflow's own client."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from benchmarks import statements
from tests.local import Local

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client(local: Local) -> Iterator[MlflowClient]:
    """MLflow's own client, as a user's program has it: all from the environment."""
    before = dict(os.environ)
    os.environ.update(local.environment())
    mlflow.set_tracking_uri(None)
    yield MlflowClient()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    """A run in an experiment of the test's own."""
    name = request.node.name
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    return str(client.create_run(experiment).info.run_id)


def files(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Tracking --------------------------------------------------------------------------------------------


def test_a_training_run_word_for_word_as_local_up_says(local: Local) -> None:
    def logged() -> int:
        rows = local.sql(
            "select count(*) from runs join experiments e using (experiment_id) where e.name = 'diabetes'"
        )
        return int(rows[0][0])

    before = logged()
    said = local.up()
    lines = [line.split("  ")[-1].strip() for line in said.splitlines()]
    commands = [line for line in lines if line.startswith("export ")] + ["python examples/train.py"]
    assert len(commands) == 4
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=local.folder,
        env={**os.environ, "PATH": tools},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "read back diabetes-elastic-net@champion" in done.stdout
    assert logged() == before + 3
    assert ("diabetes-elastic-net",) in local.sql("select name from registered_models")


def test_params_metrics_and_tags(client: MlflowClient, run: str) -> None:
    metrics = [Metric(f"m{i % 10}", i / 7, 1_700_000_000_000 + i, i) for i in range(1000)]
    client.log_batch(run, metrics=metrics)
    client.log_batch(
        run,
        params=[Param(f"p{i}", "x" * 500) for i in range(100)],
        tags=[RunTag(f"t{i}", "ü" * 200) for i in range(100)],
    )
    data = client.get_run(run).data
    assert len(data.metrics) == 10
    assert data.metrics["m9"] == pytest.approx(999 / 7)
    assert len(data.params) == 100
    assert data.tags["t99"] == "ü" * 200
    history = client.get_metric_history(run, "m3")
    assert [point.step for point in history] == list(range(3, 1000, 10))


def test_many_batches_at_once(client: MlflowClient, run: str) -> None:
    """More than the pool has connections, each of which asks for a second one."""

    def log(number: int) -> None:
        client.log_batch(
            run, metrics=[Metric(f"m{number}", i / 7, 1_700_000_000_000 + i, i) for i in range(100)]
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(log, range(48)))
    assert len(client.get_run(run).data.metrics) == 48


def test_search(client: MlflowClient, run: str) -> None:
    experiment = client.get_run(run).info.experiment_id
    client.log_metric(run, "score", 0.75)
    client.log_param(run, "kind", "a")
    other = client.create_run(experiment).info.run_id
    client.log_metric(other, "score", 0.25)
    found = client.search_runs([experiment], "metrics.score > 0.5 and params.kind = 'a'")
    assert [row.info.run_id for row in found] == [run]
    ordered = client.search_runs([experiment], order_by=["metrics.score ASC"])
    assert [row.info.run_id for row in ordered] == [other, run]
    assert client.search_experiments(filter_string="name = 'test_search'")


def test_deleted_and_restored(client: MlflowClient, run: str) -> None:
    client.delete_run(run)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    client.restore_run(run)
    client.set_terminated(run, "FAILED")
    assert client.get_run(run).info.status == "FAILED"


def test_datasets(client: MlflowClient, run: str) -> None:
    import pandas as pd

    data = mlflow.data.from_pandas(pd.DataFrame({"x": [1, 2]}), name="toy")
    with mlflow.start_run(run_id=run):
        mlflow.log_input(data, context="training")
    inputs = client.get_run(run).inputs.dataset_inputs
    assert [item.dataset.name for item in inputs] == ["toy"]


# Artifacts -------------------------------------------------------------------------------------------


def test_artifacts_up_and_down_also_large_ones(
    client: MlflowClient, local: Local, run: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/ü name.txt").write_text("text")
    (source / "empty").write_bytes(b"")
    (source / "large.bin").write_bytes(os.urandom(40 * 1024 * 1024))
    client.log_artifacts(run, str(source), "data")
    assert {item.path for item in client.list_artifacts(run, "data")} >= {"data/large.bin", "data/deep"}
    target = client.download_artifacts(run, "data", str(tmp_path))
    assert files(Path(target)) == files(source)
    # They lie in the bucket, under the run's own address.
    root = client.get_run(run).info.artifact_uri
    bucket, _, path = root.removeprefix("gs://").partition("/")
    listed = requests.get(f"{local.storage}/storage/v1/b/{bucket}/o", params={"prefix": path}, timeout=10)
    sizes = {item["name"].removeprefix(f"{path}/data/"): int(item["size"]) for item in listed.json()["items"]}
    assert sizes == {"deep/er/ü name.txt": 4, "empty": 0, "large.bin": 40 * 1024 * 1024}


def test_the_ui_reads_artifacts_through_the_server(client: MlflowClient, local: Local, run: str) -> None:
    client.log_text(run, "hello", "notes/a.txt")
    answer = local.session().get(
        f"{local.url}/get-artifact", params={"run_uuid": run, "path": "notes/a.txt"}, timeout=30
    )
    assert answer.text == "hello"


# Models and traces -----------------------------------------------------------------------------------


class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # untyped
    """A model without a library."""

    def predict(self, context: object, model_input: list[float]) -> list[float]:
        """Double each number."""
        return [2 * value for value in model_input]


def test_registry_with_aliases(client: MlflowClient, run: str) -> None:
    with mlflow.start_run(run_id=run):
        mlflow.pyfunc.log_model(
            name="doubler",
            python_model=Doubler(),
            registered_model_name="doubler",
            pip_requirements=["mlflow"],
        )
    version = client.search_model_versions("name = 'doubler'")[0].version
    client.set_registered_model_alias("doubler", "champion", version)
    client.set_model_version_tag("doubler", version, "checked", "yes")
    assert client.get_model_version_by_alias("doubler", "champion").tags["checked"] == "yes"
    model = mlflow.pyfunc.load_model("models:/doubler@champion")
    assert model.predict([1.5, 2.0]) == [3.0, 4.0]
    client.delete_registered_model_alias("doubler", "champion")
    client.delete_registered_model("doubler")
    assert not client.search_registered_models("name = 'doubler'")


def test_traces(client: MlflowClient) -> None:
    experiment = client.create_experiment("test_traces")
    mlflow.set_experiment(experiment_id=experiment)

    @mlflow.trace  # type: ignore[untyped-decorator]
    def add(one: int, two: int) -> int:
        return one + two

    assert add(1, 2) == 3
    mlflow.flush_trace_async_logging()
    (trace,) = client.search_traces(locations=[experiment])
    assert trace.data.spans[0].name == "add"
    assert trace.data.spans[0].outputs == 3


def test_otlp_traces(client: MlflowClient, local: Local) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    experiment = client.create_experiment("test_otlp")
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = os.urandom(16), os.urandom(8), "by OTLP"
    span.start_time_unix_nano, span.end_time_unix_nano = 1_700_000_000 * 10**9, 1_700_000_001 * 10**9
    answer = local.session().post(
        f"{local.url}/v1/traces",
        data=request.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert len(client.search_traces(locations=[experiment])) == 1


def test_prompts_and_graphql(client: MlflowClient, local: Local, run: str) -> None:
    mlflow.genai.register_prompt("greeting", "Hello {{name}}")
    assert mlflow.genai.load_prompt("prompts:/greeting/1").format(name="Ada") == "Hello Ada"
    query = {
        "query": "query GetRun($data: MlflowGetRunInput!) "
        "{ mlflowGetRun(input: $data) { run { info { runName } } } }",
        "operationName": "GetRun",
        "variables": {"data": {"runId": run}},
    }
    answer = local.session().post(f"{local.url}/graphql", json=query, timeout=30)
    name = client.get_run(run).info.run_name
    assert answer.json()["data"]["mlflowGetRun"]["run"]["info"]["runName"] == name


def test_scorers_and_evaluation_datasets(client: MlflowClient) -> None:
    from mlflow.genai.datasets import create_dataset
    from mlflow.genai.scorers import Correctness, list_scorers

    experiment = client.create_experiment("test_scorers")
    Correctness(model="openai:/none").register(name="right", experiment_id=experiment)
    assert [scorer.name for scorer in list_scorers(experiment_id=experiment)] == ["right"]
    dataset = create_dataset(name="questions", experiment_id=experiment)
    dataset.merge_records([{"inputs": {"question": "1 + 1"}, "expectations": {"answer": "2"}}])
    assert len(dataset.to_df()) == 1


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1/x", "https://169.254.169.254/x", "https://10.0.0.1/x"]
)
def test_webhooks_to_private_addresses_are_refused(address: str, client: MlflowClient) -> None:
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

    event = WebhookEvent(WebhookEntity.REGISTERED_MODEL, WebhookAction.CREATED)
    with pytest.raises(mlflow.MlflowException, match="INVALID_PARAMETER_VALUE"):
        client.create_webhook("hook", address, [event])
    assert client.list_webhooks() == []


# Who may enter ---------------------------------------------------------------------------------------

PROGRAMS = [
    "/api/2.0/mlflow/experiments/search?max_results=1",
    "/ajax-api/2.0/mlflow/runs/search",
    "/api/2.0/mlflow-artifacts/artifacts",
    "/ajax-api/3.0/mlflow/traces/search",
    "/v1/traces",
    "/graphql",
    "/get-artifact",
    "/gateway/x",
    "/health",
    "/version",
]


@pytest.mark.parametrize("path", PROGRAMS)
@pytest.mark.parametrize("token", [None, "not.a.token"])
def test_without_a_token_programs_get_401_as_json(path: str, token: str | None, local: Local) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.get(f"{local.url}{path}", headers=headers, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/json")


@pytest.mark.parametrize("path", ["/", "/static-files/index.html", "/anything", "/metrics", "/api"])
def test_without_a_session_people_are_sent_to_sign_in(path: str, local: Local) -> None:
    answer = requests.get(f"{local.url}{path}", allow_redirects=False, timeout=10)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(f"{local.issuer}/oauth2/authorize?")
    assert "code_challenge_method=S256" in answer.headers["Location"]


def test_only_ping_and_the_sign_in_answer_without_a_login(local: Local) -> None:
    assert requests.get(f"{local.url}/ping", timeout=10).text == "OK"


def test_another_domains_token_is_refused(local: Local) -> None:
    for user in ("mallory@elsewhere.test", "alice@example.com.elsewhere.test", "alice@sub.example.com"):
        for path in PROGRAMS:
            assert local.session(user).get(f"{local.url}{path}", timeout=10).status_code == 403


def test_another_host_or_origin_is_refused(local: Local) -> None:
    session = local.session()
    for words in (
        "Blocked cross-origin request from https",
        "Rejected request with invalid Host header: evil",
    ):
        local.expected.append(f"WARNING mlflow.server.security: {words}")
    path = f"{local.url}/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    assert session.post(path, json=body, headers={"Origin": local.url}, timeout=10).status_code == 200
    assert (
        session.post(path, json=body, headers={"Origin": "https://evil.test"}, timeout=10).status_code == 403
    )
    assert session.get(path, params=body, headers={"Host": "evil.test"}, timeout=10).status_code == 403


# The container ---------------------------------------------------------------------------------------


def test_limits_and_rights_of_the_container(local: Local) -> None:
    container = local.container("mlflow")
    host = container.attrs["HostConfig"]
    assert host["Memory"] == 512 * 1024**2
    assert host["NanoCpus"] == 10**9
    assert host["ReadonlyRootfs"]
    assert container.exec_run("id -u").output == b"65532\n"
    assert container.exec_run("touch /app/x").exit_code != 0
    processes = [" ".join(row[-1].split()) for row in container.top()["Processes"]]
    assert sorted(
        p for p in processes if "tini" in p or "start.sh" in p or "server" in p or "oauth2-proxy" in p
    ) == [
        "bash /app/start.sh",
        f"oauth2-proxy --config /secrets/oauth2-proxy.cfg --http-address 0.0.0.0:{local.port}",
        "python3 -m server",
        "tini -- /app/start.sh",
    ]


def test_no_compiler_and_no_pip_are_left_in_the_image(local: Local) -> None:
    container = local.container("mlflow")
    for program in ("pip", "pip3", "gcc", "cc", "ld"):
        assert container.exec_run(["sh", "-c", f"command -v {program}"]).exit_code != 0, program
    assert container.exec_run("python3 -c 'import pip'").exit_code != 0


def test_the_bill_of_materials_is_what_is_installed(local: Local) -> None:
    container = local.container("mlflow")
    bill = json.loads(container.exec_run("cat /app/sbom.json").output)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    versions = {part["purl"].partition("@")[0]: part["version"] for part in bill["components"]}
    assert len(versions) == len(bill["components"])
    assert versions["pkg:pypi/mlflow"] == mlflow.__version__
    proxy = versions["pkg:golang/github.com/oauth2-proxy/oauth2-proxy/v7"]
    assert local.settings["images"]["oauth2_proxy"].endswith(f":{proxy}")
    locked = (local.folder / "server/requirements.lock").read_text()
    lines = [line for line in locked.splitlines() if "==" in line and "win32" not in line]
    named = {found[1] for line in lines if (found := re.match(r"([a-z0-9-]+)==", line))}
    assert {name.removeprefix("pkg:pypi/") for name in versions if name.startswith("pkg:pypi/")} == named
    assert "pkg:deb/debian/tini" in versions
    assert versions["pkg:golang/stdlib"].startswith("1.")
    assert "pkg:golang/github.com/coreos/go-oidc/v3" in versions
    # as the README says it
    image = f"{local.settings['service']}-local-image"
    command = f"docker run --rm --entrypoint cat {image} /app/sbom.json"
    printed = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == bill
    assert "docker run --rm --entrypoint cat IMAGE /app/sbom.json" in (local.folder / "README.md").read_text()


def test_the_bytecode_is_there_and_never_checked(local: Local) -> None:
    """Every module's: in __pycache__, or in the place of its source.

    The header's flags (PEP 552): 1 is by hash, not checked.
    """
    script = """
import pathlib, sys
for folder in ("/opt/venv/lib", "/app/server"):
    modules, flags = set(), {}
    for path in pathlib.Path(folder).rglob("*.pyc"):
        home = path.parent.parent if path.parent.name == "__pycache__" else path.parent
        modules.add(home / path.name.partition(".")[0])
        flags.setdefault(int.from_bytes(path.read_bytes()[4:8], "little"), []).append(str(path))
    missing = [str(p) for p in pathlib.Path(folder).rglob("*.py") if p.with_suffix("") not in modules]
    other = {state: paths[:3] for state, paths in flags.items() if state != 1}
    print(len(flags.get(1, [])) > 5, other, missing)
"""
    code, output = local.container("mlflow").exec_run(["python3", "-c", script])
    assert code == 0, output
    assert output.decode().splitlines() == ["True {} []"] * 2


def test_a_start_does_only_what_requests_need(local: Local) -> None:
    """The server's own start, but for its serving; then one request."""
    script = """
import asyncio, gc, json, os, runpy, sys, uvicorn

HEAVY = {"alembic", "fastapi", "google.cloud.storage", "graphene", "numpy", "pandas"}
SCOPE = {"type": "http", "method": "GET", "path": "/api/2.0/mlflow/experiments/search", "http_version": "1.1",
         "query_string": b"max_results=5", "scheme": "http",
         "headers": [(b"host", os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"].encode())]}
sent = []
async def receive(): return {"type": "http.request", "body": b""}
async def send(message): sent.append(message)

def run(self):
    import mlflow.server
    rules = list(mlflow.server.app.url_map.iter_rules())
    found = {"heavy": sorted(HEAVY & set(sys.modules)), "collecting": gc.isenabled(),
             "frozen": gc.get_freeze_count() > 100_000,
             "builders": {rule._build.__func__.__module__ for rule in rules} == {"server.lazy"},
             "url": mlflow.server.app.url_map.bind("here").build("serve_artifacts")}
    asyncio.run(self.config.app(SCOPE, receive, send))
    found |= {"status": sent[0]["status"], "heavy after it": sorted(HEAVY & set(sys.modules))}
    print(json.dumps(found))

uvicorn.Server.run = run
runpy.run_module("server", run_name="__main__")
"""
    code, output = local.container("mlflow").exec_run(["python3", "-W", "ignore", "-c", script])
    assert code == 0, output
    assert json.loads(output.decode().splitlines()[-1]) == {
        "heavy": [],
        "collecting": True,
        "frozen": True,
        "builders": True,
        "url": "/get-artifact",
        "status": 200,
        "heavy after it": [],
    }


def test_what_the_server_never_uses_is_not_in_the_image(local: Local) -> None:
    script = "import importlib.util as u; print([n for n in ('numpy', 'pandas') if u.find_spec(n)])"
    assert local.container("mlflow").exec_run(["python3", "-c", script]).output == b"[]\n"


def test_what_is_fastapis_goes_there(local: Local) -> None:
    """Flask answers the rest, so each route of MLflow's FastAPI app is either known or Flask's too."""
    script = """
from server import lazy
lazy.install()
from mlflow.server import app as flask
from mlflow.server.fastapi_app import app
from server.app import NATIVE
from server.closed import ASSISTANT
routers = [router for router in app.routes if hasattr(router, "effective_candidates")]
paths = {route.path for router in routers for route in router.effective_candidates()}
rules = {rule.rule for rule in flask.url_map.iter_rules()}
print(len(paths) > 40, sorted(p for p in paths - rules if not p.startswith((*NATIVE, ASSISTANT))))
"""
    code, output = local.container("mlflow").exec_run(["python3", "-W", "ignore", "-c", script])
    assert code == 0, output
    assert output.decode().splitlines()[-1] == "True []"


@pytest.mark.parametrize("encoding", ["br", "gzip", ""])
def test_the_uis_files_are_compressed_kept_and_behind_sign_in(encoding: str, local: Local) -> None:
    session = local.session()
    page = session.get(f"{local.url}/", timeout=10).text
    (script,) = re.findall(r"static-files/static/js/main\.[0-9a-f]+\.js", page)
    headers = {"Accept-Encoding": encoding or "identity"}
    answer = session.get(f"{local.url}/{script}", headers=headers, stream=True, timeout=10)
    assert answer.status_code == 200
    assert answer.headers.get("Content-Encoding", "") == encoding
    sent = len(answer.raw.read(decode_content=False))
    assert sent < 1_300_000 if encoding else sent > 4_000_000
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Cache-Control"] == "max-age=315360000, private, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "Access-Control-Allow-Origin" not in answer.headers
    known = {"If-None-Match": answer.headers["ETag"]}
    assert session.get(f"{local.url}/{script}", headers=known, timeout=10).status_code == 304
    assert requests.get(f"{local.url}/{script}", allow_redirects=False, timeout=10).status_code == 302


@pytest.mark.parametrize(
    "path", ["x.js", "../../__init__.py", "%2e%2e/%2e%2e/__init__.py", "static", "static/"]
)
def test_no_other_file_is_among_the_uis(path: str, local: Local) -> None:
    answer = local.session().get(f"{local.url}/static-files/{path}", timeout=10)
    assert answer.status_code == 404


def test_the_private_names_are_those_of_mlflows_own_command(local: Local) -> None:
    script = """
import mlflow.server, os, types
for name in ("POOL_SIZE", "MAX_OVERFLOW"):  # a database in memory takes none
    os.environ.pop(f"MLFLOW_SQLALCHEMYSTORE_{name}")
from server.environment import mlflow_environment
seen = {}
def capture(command, extra_env, **_):
    seen.update(extra_env)
    return types.SimpleNamespace(wait=lambda: None)
mlflow.server._exec_cmd = capture
uri, root = "sqlite://", "gs://bucket/x"
for served in (False, True):
    seen.clear()
    mlflow.server._run_server(
        file_store_path=uri, registry_store_uri=uri, serve_artifacts=served, artifacts_only=False,
        default_artifact_root="mlflow-artifacts:/" if served else root,
        artifacts_destination=root if served else None, host="127.0.0.1", port=5000)
    ours = mlflow_environment({"BACKEND_STORE_URI": uri, "DEFAULT_ARTIFACT_ROOT": root,
                               "MLFLOW_SERVE_ARTIFACTS": str(served).lower()})
    for values in (ours, seen):
        values.pop("_MLFLOW_SERVER_BOOT_ID")
    assert ours == seen, (ours, seen)
print("same")
"""
    code, output = local.container("mlflow").exec_run(["python3", "-W", "ignore", "-c", script])
    assert (code, output.splitlines()[-1:]) == (0, [b"same"]), output


# Load and restarts -----------------------------------------------------------------------------------

FIRST: list[tuple[str, str, object]] = [
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=5", None),
    ("POST", "/ajax-api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}),
    ("GET", "/ajax-api/2.0/mlflow/registered-models/search", None),
    ("GET", "/ajax-api/2.0/mlflow/model-versions/search", None),
    ("POST", "/ajax-api/2.0/mlflow/logged-models/search", {"experiment_ids": ["0"]}),
    ("POST", "/graphql", {"query": "{ __typename }"}),
    ("POST", "/ajax-api/3.0/mlflow/traces/search", {"locations": []}),
    ("GET", "/api/2.0/mlflow/webhooks", None),
    ("GET", "/ajax-api/3.0/mlflow/server-info", None),
    ("GET", "/version", None),
    ("GET", "/", None),
    ("GET", "/static-files/favicon.ico", None),
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", None),
]


def test_a_cold_server_hit_by_50_first_requests_at_once(local: Local) -> None:
    session = local.session()
    local.container("mlflow").restart()
    while True:  # until the port is open; nothing but /ping is asked before
        try:
            if requests.get(f"{local.url}/ping", timeout=10).ok:
                break
        except requests.ConnectionError:
            assert local.container("mlflow").status == "running"

    def ask(number: int) -> tuple[str, int, str]:
        method, path, body = FIRST[number % len(FIRST)]
        answer = requests.request(
            method, f"{local.url}{path}", json=body, headers=session.headers, timeout=60
        )
        return path, answer.status_code, answer.text[:200]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert [answer for answer in answers if answer[1] >= 400] == []


def test_slow_senders_hold_nobody_up(local: Local) -> None:
    """More of them than there are threads: each begins a request, and the rest of it does not come."""
    head = (
        f"POST /api/2.0/mlflow/experiments/search HTTP/1.1\r\nHost: localhost:{local.port}\r\n"
        f"Authorization: Bearer {local.token()}\r\nContent-Type: application/json\r\n"
        'Content-Length: 17\r\n\r\n{"max_re'
    )
    session = local.session()
    with ExitStack() as stack:
        senders = [
            stack.enter_context(socket.create_connection(("127.0.0.1", local.port), timeout=30))
            for _ in range(12)
        ]
        for sender in senders:
            sender.sendall(head.encode())
        answer = session.get(f"{local.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=20)
        assert answer.status_code == 200
        for sender in senders:
            sender.sendall(b'sults":1}')
            assert sender.recv(100).startswith(b"HTTP/1.1 200")


def test_sixteen_programs_at_once_within_the_memory_limit(client: MlflowClient, local: Local) -> None:
    experiment = client.create_experiment("test_sixteen")

    def train(number: int) -> float:
        mine = MlflowClient()
        run = mine.create_run(experiment).info.run_id
        for step in range(20):
            mine.log_metric(run, "loss", 1 / (step + 1), step=step)
        mine.log_text(run, str(np.arange(1000)), "array.txt")
        mine.set_terminated(run)
        return float(mine.get_run(run).data.metrics["loss"])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(train, range(32))) == [1 / 20] * 32
    assert not local.container("mlflow").attrs["State"]["OOMKilled"]
    count = local.sql(
        f"select count(*) from metrics m join runs r using (run_uuid) where experiment_id = {experiment}"
    )
    assert count == [("640",)]


def test_the_connections_stay_within_the_pool(local: Local) -> None:
    session = local.session()
    path = f"{local.url}/api/2.0/mlflow/experiments/search?max_results=5"
    connections = (
        "select count(*) from pg_stat_activity"
        " where backend_type = 'client backend' and application_name <> 'psql'"
    )

    def ask(_: int) -> int:
        return requests.get(path, headers=session.headers, timeout=60).status_code

    with ThreadPoolExecutor(30) as pool:
        answers = pool.map(ask, range(300))
        held = [local.sql(connections) for _ in range(10)]
        assert set(answers) == {200}
    assert max(int(row[0][0]) for row in held) <= 5  # what the settings give the one process


def test_a_metric_costs_eight_statements(client: MlflowClient, local: Local, run: str) -> None:
    """Each is a way to the database and back, whichever of the pool's connections is next."""
    client.log_metric(run, "m", 0.0, step=0)
    with statements.heard(local.container("database")) as found:
        for step in range(1, 11):
            client.log_metric(run, "m", float(step), step=step)
    assert Counter(" ".join(statement.split()[:3]) for statement in found) == {
        "SELECT 1": 10,  # does the connection live?
        "BEGIN": 10,
        "SELECT runs.run_uuid AS": 10,
        "INSERT INTO metrics": 10,
        "SELECT latest_metrics.key AS": 20,
        "UPDATE latest_metrics SET": 10,
        "COMMIT": 10,
    }


def test_a_hundred_metrics_cost_little_more_than_one(client: MlflowClient, local: Local, run: str) -> None:
    """MLflow updates the newest value of each; they go together."""

    def batch(step: int) -> list[Metric]:
        return [Metric(f"m{number}", float(number + step), 0, step) for number in range(100)]

    client.log_batch(run, metrics=batch(0))
    with statements.heard(local.container("database")) as found:
        client.log_batch(run, metrics=batch(1))
    assert len(found) < 20
    assert client.get_run(run).data.metrics == {f"m{number}": number + 1 for number in range(100)}


def test_restart_keeps_everything(client: MlflowClient, local: Local, run: str, tmp_path: Path) -> None:
    client.log_metric(run, "kept", 4.5)
    client.log_text(run, "kept", "kept.txt")
    done = local.invoke("local-down")
    assert "kept: mlflow-checks-local-database, mlflow-checks-local-storage" in done.stdout
    assert local.engine.containers.list(all=True, filters={"label": "mlflow-local=mlflow-checks"}) == []
    assert local.engine.networks.list(filters={"label": "mlflow-local=mlflow-checks"}) == []
    local.up()
    os.environ.update(local.environment())
    assert client.get_run(run).data.metrics == {"kept": 4.5}
    assert Path(client.download_artifacts(run, "kept.txt", str(tmp_path))).read_text() == "kept"


def test_the_drained_end(local: Local) -> None:
    container = local.container("mlflow")
    container.stop(timeout=10)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    local.up()
