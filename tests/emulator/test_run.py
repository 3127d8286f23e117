"""Cloud Run: deployed by the real gcloud, really running, under Cloud Run's rules."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from emulator import Emulator
from emulator.apis.serviceusage import enable
from emulator.run.container import StartError
from emulator.run.instance import Instance
from emulator.run.workload import DEFAULT_PROBE, Workload
from tests.emulator.conftest import NUMBER, PROJECT, REGION, Gcloud, Web, push

pytestmark = pytest.mark.docker
WHERE = f"--region={REGION}"
ACCOUNT = f"runner@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def account(gcloud: Gcloud) -> str:
    """The runtime service account of all deployments in here; it has no grant at first."""
    gcloud("iam", "service-accounts", "create", "runner")
    return ACCOUNT


@pytest.fixture(scope="module")
def deploy(gcloud: Gcloud, image: str, account: str) -> Callable[..., Any]:
    """Deploy the test image; arguments are gcloud's further ones."""

    def run(service: str, *options: str, private: bool = False, fails: bool = False) -> str:
        access = "--no-allow-unauthenticated" if private else "--allow-unauthenticated"
        named = () if any(option.startswith("--image") for option in options) else (f"--image={image}",)
        arguments = (
            "run",
            "deploy",
            service,
            WHERE,
            f"--service-account={account}",
            access,
            *named,
            *options,
        )
        return gcloud.refused(*arguments) if fails else gcloud(*arguments)

    return run


@pytest.fixture(autouse=True)
def _nothing_runs_on(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.cloud.run.scale_down(0)


def url(service: str, tag: str = "") -> str:
    prefix = f"{tag}---" if tag else ""
    return f"https://{prefix}{service}-{NUMBER}.{REGION}.run.app"


def secret(gcloud: Gcloud, name: str, text: str, *, granted: bool = True) -> None:
    """Have a secret that the runtime service account may read, or may not."""
    gcloud("secrets", "create", name, "--replication-policy=automatic", "--data-file=-", text=text)
    if granted:
        member = f"--member=serviceAccount:{ACCOUNT}"
        gcloud("secrets", "add-iam-policy-binding", name, member, "--role=roles/secretmanager.secretAccessor")


def test_environment_secrets_files_and_identity(
    gcloud: Gcloud, deploy: Any, web: Web, emulator: Emulator
) -> None:
    secret(gcloud, "from-env", "in the environment")
    secret(gcloud, "from-file", "in a file")
    deploy(
        "contract",
        "--set-env-vars=PLAIN=plain",
        "--set-secrets=SECRET=from-env:latest,/etc/conf/a.cfg=from-file:1",
    )
    base = url("contract")
    assert web(f"{base}/env?x=PLAIN").text == "plain"
    assert web(f"{base}/env?x=SECRET").text == "in the environment"
    assert web(f"{base}/file?x=/etc/conf/a.cfg").text == "in a file"
    assert web(f"{base}/env?x=K_SERVICE").text == "contract"
    assert web(f"{base}/env?x=PORT").text == "8080"
    assert web(f"{base}/metadata?x=email").text == ACCOUNT
    token = web(f"{base}/metadata?x=identity%3Faudience=https://x.test%26format=full").text
    assert emulator.cloud.identity.verified(token, ["https://x.test"])["email"] == ACCOUNT
    # Google's own hosts, by the runtime's own account: what it has no grant for is refused
    secrets = f"https://secretmanager.googleapis.com/v1/projects/{PROJECT}/secrets"
    assert web(f"{base}/google?x={secrets}/from-env/versions/1:access").text == "200"
    assert web(f"{base}/google?x={secrets}").text == "403"
    headers = {n.lower(): v for n, v in json.loads(web(f"{base}/headers").text).items()}
    assert headers["x-forwarded-proto"] == "https"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    described = json.loads(gcloud("run", "services", "describe", "contract", WHERE, "--format=json"))
    urls = json.loads(described["metadata"]["annotations"]["run.googleapis.com/urls"])
    assert urls[0] == base
    assert [web(address).status for address in urls] == [200, 200]
    assert described["status"]["url"] == urls[1]


def test_output_is_in_the_logs(gcloud: Gcloud, deploy: Any, web: Web) -> None:
    deploy("logged")
    assert web(url("logged")).status == 200
    logs = gcloud("run", "services", "logs", "read", "logged", WHERE)
    assert "serving" in logs
    assert f"GET 200 {url('logged')}/" in logs
    deploy("logged", "--set-env-vars=STRUCTURED=1")
    assert (
        logged(gcloud, "logged", "severity=NOTICE AND jsonPayload.detail=7", "jsonPayload.message")
        == "started"
    )


def logged(gcloud: Gcloud, service: str, query: str, field: str = "textPayload") -> str:
    """Read a field of a service's log entries, Cloud Run's own among them."""
    query = f'resource.labels.service_name="{service}" AND {query}'
    return gcloud("logging", "read", query, f"--format=value({field})")


def test_tags_traffic_and_revisions(gcloud: Gcloud, deploy: Any, web: Web) -> None:
    deploy("moved", "--revision-suffix=one")
    deploy("moved", "--revision-suffix=two", "--no-traffic", "--tag=candidate", "--set-env-vars=NEW=1")
    assert web(url("moved")).text == "hello from moved-one"
    assert web(url("moved", "candidate")).text == "hello from moved-two"
    gcloud("run", "services", "update-traffic", "moved", WHERE, "--to-revisions=moved-one=50,moved-two=50")
    assert {web(url("moved")).text for _ in range(40)} == {"hello from moved-one", "hello from moved-two"}
    gcloud("run", "services", "update-traffic", "moved", WHERE, "--to-latest", "--remove-tags=candidate")
    assert web(url("moved")).text == "hello from moved-two"
    assert web(url("moved", "candidate")).status == 404
    names = gcloud(
        "run", "revisions", "list", "--service=moved", WHERE, "--format=value(metadata.name)"
    ).split()
    assert sorted(names) == ["moved-one", "moved-two"]
    refusal = gcloud.refused(
        "run", "services", "update-traffic", "moved", WHERE, "--to-revisions=moved-three=100"
    )
    assert "moved-three" in refusal
    gcloud("run", "services", "delete", "moved", WHERE)
    assert web(url("moved")).status == 404


def test_a_private_service_needs_the_invoker_role(
    gcloud: Gcloud, deploy: Any, web: Web, emulator: Emulator
) -> None:
    deploy("private", private=True)
    base, identity = url("private"), emulator.cloud.identity
    assert web(base).status == 403
    token = identity.id_token("ann@example.com", base)
    assert web(base, token=token).status == 403
    member = ("--member=user:ann@example.com", "--role=roles/run.invoker")
    gcloud("run", "services", "add-iam-policy-binding", "private", WHERE, *member)
    assert web(base, token=token).status == 200
    assert web(base, token=identity.id_token("ann@example.com", "https://elsewhere.test")).status == 401
    assert web(base, token=token[:-4] + "AAAA").status == 401


def test_cpu_is_there_during_requests_only(deploy: Any, web: Web, emulator: Emulator) -> None:
    deploy("throttled", "--cpu-throttling", "--set-env-vars=WORK=1", "--max-instances=1")
    deploy("always", "--no-cpu-throttling", "--set-env-vars=WORK=1", "--max-instances=1")

    def idle_work(service: str) -> int:
        """How far the background work gets between two requests."""
        before = int(web(f"{url(service)}/count").text)
        threading.Event().wait(1)
        return int(web(f"{url(service)}/count").text) - before

    assert idle_work("throttled") * 5 < idle_work("always")


def test_from_zero_to_the_maximum_and_back(deploy: Any, web: Web, emulator: Emulator, gcloud: Gcloud) -> None:
    deploy("scaled", "--concurrency=1", "--max-instances=2")
    place = f"{PROJECT}/{REGION}/"
    revision = emulator.cloud.store["run_services"][f"{place}scaled"]["status"]["latestReadyRevisionName"]
    pool = emulator.cloud.run.pool(f"{place}{revision}")
    emulator.cloud.run.scale_down(0)
    assert len(pool.instances) == 0
    assert "goodbye" in gcloud("run", "services", "logs", "read", "scaled", WHERE)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: web(f"{url('scaled')}/sleep?x=1").status, range(4)))
    assert answers == [200] * 4
    assert len(pool.instances) == 2


def test_requests_above_32_mib_and_too_many_are_refused(deploy: Any, web: Web) -> None:
    deploy("limited", "--concurrency=1", "--max-instances=1", "--timeout=2")
    assert web(url("limited"), body=b"x" * 32 * 1024**2).text == str(32 * 1024**2)
    assert web(url("limited"), body=b"x" * (32 * 1024**2 + 1)).status == 413
    assert web(f"{url('limited')}/sleep?x=30").status == 504


def test_an_instance_over_its_memory_is_killed(deploy: Any, web: Web, gcloud: Gcloud) -> None:
    deploy("eater", "--memory=256Mi", "--max-instances=1")
    assert web(f"{url('eater')}/eat?x=400").status == 503
    assert web(url("eater")).status == 200
    assert "Memory limit of 256 MiB exceeded" in logged(gcloud, "eater", "severity=ERROR")


FAILURES = {
    "exit": (["--set-env-vars=FAIL=exit"], "failed to start and listen on the port"),
    "memory": (["--set-env-vars=FAIL=memory", "--memory=256Mi"], "failed to start and listen on the port"),
    "probe": (
        [
            "--set-env-vars=FAIL=none",
            "--startup-probe=httpGet.path=/nothing,periodSeconds=1,failureThreshold=2",
        ],
        "the probe failed",
    ),
    "image": ([f"--image={REGION}-docker.pkg.dev/{PROJECT}/deployed/nothing:1"], "not found"),
    "repository": ([f"--image={REGION}-docker.pkg.dev/{PROJECT}/nowhere/server:1"], "was not found"),
    "missing-secret": (["--set-secrets=X=no-such-secret:latest"], "no-such-secret/versions/latest"),
    "missing-grant": (["--set-secrets=X=not-granted:latest"], "Permission denied on secret"),
}


@pytest.fixture(scope="module")
def serving(deploy: Any, gcloud: Gcloud) -> str:
    """A service that serves, for deployments that fail; and a secret that the account may not read."""
    secret(gcloud, "not-granted", "hidden", granted=False)
    deploy("steady")
    return "steady"


@pytest.mark.parametrize("failure", FAILURES)
def test_a_deployment_that_fails(
    deploy: Any, gcloud: Gcloud, serving: str, web: Web, emulator: Emulator, failure: str
) -> None:
    options, sentence = FAILURES[failure]
    before = web(url(serving)).text
    assert sentence in deploy(serving, *options, fails=True)
    assert web(url(serving)).text == before
    stored = emulator.cloud.store["run_services"][f"{PROJECT}/{REGION}/{serving}"]
    ready = next(c for c in stored["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "False"
    if failure == "exit":
        assert "the server has no configuration" in gcloud("run", "services", "logs", "read", serving, WHERE)
    if failure == "memory":
        logs = logged(gcloud, serving, "severity=ERROR")
        assert "Memory limit of 256 MiB exceeded" in logs


@pytest.fixture
def instance(emulator: Emulator, account: str, image: str) -> Instance:
    """An instance, not started, whose container would end at once."""
    workload = Workload(image, account, environment={"FAIL": "exit"}, probe=DEFAULT_PROBE)
    names = {"project": PROJECT, "region": REGION, "service": "brief", "revision": "brief-00001-aaa"}
    return Instance(emulator.cloud, emulator.cloud.run.launcher, workload, names)


def test_an_address_where_nothing_answers_is_left_when_the_container_ends(instance: Instance) -> None:
    instance.address = "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            with pytest.raises(TimeoutError):
                instance.connect(port, 0.1)
            threading.Timer(0.2, instance.ended.set).start()
            with pytest.raises(ConnectionResetError, match="has ended"):
                instance.connect(port, 240)


def test_a_container_that_has_ended_before_one_looks(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = instance._launcher.launch

    def slow(*arguments: Any) -> Any:
        container = launch(*arguments)
        container.wait()
        return container

    monkeypatch.setattr(instance._launcher, "launch", slow)
    with pytest.raises(StartError, match="ended with exit code 1"):
        instance.start()


def test_who_may_not_act_as_the_account_cannot_deploy(gcloud: Gcloud, image: str, account: str) -> None:
    member = ("--member=user:dev@example.com", "--condition=None")
    gcloud("projects", "add-iam-policy-binding", PROJECT, *member, "--role=roles/run.admin")
    arguments = (
        "run",
        "deploy",
        "foreign",
        WHERE,
        f"--image={image}",
        f"--service-account={account}",
        "--no-allow-unauthenticated",
    )
    assert "iam.serviceAccounts.actAs" in gcloud.refused(*arguments, user="dev@example.com")


def test_a_mistyped_annotation_is_refused(gcloud: Gcloud, image: str, account: str, tmp_path: Any) -> None:
    manifest = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "mistyped"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"run.googleapis.com/cpu-throtling": "false"}},
                "spec": {"serviceAccountName": account, "containers": [{"image": image}]},
            }
        },
    }
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(manifest))
    error = gcloud.refused("run", "services", "replace", str(file), WHERE)
    assert "the annotation run.googleapis.com/cpu-throtling" in error


def test_the_database_socket_is_for_who_may_connect(gcloud: Gcloud, deploy: Any, web: Web) -> None:
    shape = ("--database-version=POSTGRES_17", "--edition=enterprise", "--tier=db-f1-micro", WHERE)
    gcloud("sql", "instances", "create", "socket", *shape)
    connection = f"{PROJECT}:{REGION}:socket"
    path = f"/cloudsql/{connection}/.s.PGSQL.5432"
    deploy("client", f"--add-cloudsql-instances={connection}")
    assert web(f"{url('client')}/connect?x={path}").status == 500
    assert "Cloud SQL connection failed" in logged(gcloud, "client", "severity=ERROR")
    member = ("--member", f"serviceAccount:{ACCOUNT}", "--condition=None")
    gcloud("projects", "add-iam-policy-binding", PROJECT, *member, "--role=roles/cloudsql.client")
    deploy("client", f"--add-cloudsql-instances={connection}")
    assert web(f"{url('client')}/connect?x={path}").text == "connected"


def test_a_service_outlives_a_restart_of_the_emulator(image: str, emulator: Emulator, tmp_path: Any) -> None:
    with Emulator(tmp_path, project=PROJECT, number=NUMBER) as first:
        for name in ("run.googleapis.com", "iam.googleapis.com", "artifactregistry.googleapis.com"):
            enable(first.cloud, PROJECT, name)
        first.cloud.store["repositories"].update(emulator.cloud.store["repositories"])
        push(first, image)
        Gcloud(first)("run", "deploy", "kept", WHERE, f"--image={image}", "--allow-unauthenticated")
        port = first.port
    with Emulator(tmp_path, project=PROJECT, number=NUMBER, port=port) as second:
        assert Web(second)(url("kept")).text.startswith("hello from kept-")
