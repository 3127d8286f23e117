"""What a signed-in user must not have MLflow do: fetch addresses, touch files, run programs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from emulator.engine import wait_until
from tests.abuse.conftest import Target
from tests.abuse.forge import Forge
from tests.abuse.place import Place
from tests.abuse.wire import Answer

Header = tuple[str, str]
METADATA = "169.254.169.254"
# Spellings of addresses that are this container's own, its neighbours' or the metadata server's.
PRIVATE = [
    METADATA,
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "127.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "localhost",
    "localhost.",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "[fe80::1]",
    "[fc00::1]",
    f"user:password@{METADATA}",
    f"example.com@{METADATA}",
    "metadata.google.internal",
    "metadata",
]


class User:
    """Somebody who may enter, asking MLflow itself."""

    def __init__(self, service: Target, bearer: Header) -> None:
        self.service, self.bearer = service, bearer

    def ask(self, method: str, path: str, body: Any = None, *more: Header) -> Answer:
        """Ask, with a body in JSON when there is one."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [self.bearer, ("Content-Type", "application/json"), *more]
        return self.service.ask(method, path, headers, data)

    def made(self, path: str, body: Any) -> Any:
        """Have something made, and return MLflow's answer."""
        answer = self.ask("POST", f"/api/2.0/mlflow/{path}", body)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def run(self) -> str:
        """Return a new run's id, in an experiment of its own."""
        experiment = self.made("experiments/create", {"name": secrets.token_hex(8)})["experiment_id"]
        return str(self.made("runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"])


@pytest.fixture(scope="module")
def user(service: Target, bearer: Header) -> User:
    """Somebody who may enter."""
    return User(service, bearer)


@pytest.fixture(scope="module")
def run(user: User) -> str:
    """A run with an artifact in the bucket."""
    made = user.run()
    answer = user.ask("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={made}&path=a.txt", b"harmless")
    assert answer.status == 200, answer
    return made


# One user and another's data ----------------------------------------------------------------------------


def test_whoever_enters_may_do_anything_in_anybodys_name(user: User, forge: Forge, place: Place) -> None:
    """docs/security.md says so, and that the log tells."""
    run = user.run()
    bob = User(user.service, ("Authorization", f"Bearer {forge.token(email='bob@example.com')}"))
    tag = {"run_id": run, "key": "mlflow.user", "value": "carol@example.com"}
    assert bob.made("runs/set-tag", tag) == {}
    seen = json.loads(user.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run}").body)["run"]["data"]["tags"]
    assert {"key": "mlflow.user", "value": "carol@example.com"} in seen
    assert bob.made("runs/delete", {"run_id": run}) == {}
    path = "/api/2.0/mlflow/runs/delete"

    def deleted_by() -> set[str]:
        asked = [entry for entry in place.entries() if path in json.dumps(entry.get("httpRequest", {}))]
        return {entry["jsonPayload"]["user"] for entry in asked}

    wait_until(lambda: "bob@example.com" in deleted_by(), "the line that tells", 10)


# Files -----------------------------------------------------------------------------------------------------

LOCATIONS = [
    "/tmp",
    "/secrets",
    "/proc/self",
    "file:///secrets",
    "file:/secrets",
    "FILE:///secrets",
    "file://localhost/secrets",
    "file:///proc/self?x=y",
    "file:///tmp/%2e%2e/secrets",
    "tmp",
    "../secrets",
    "./x",
    "~/x",
    "C:/x",
    "c:\\x",
    " /secrets",
    "\\\\host\\share",
    "http://169.254.169.254/computeMetadata/v1/",
    "https://127.0.0.1:5000/",
    "http://metadata.google.internal/",
    "ftp://169.254.169.254/x",
    "sftp://root@127.0.0.1/x",
    "hdfs://127.0.0.1/x",
    "viewfs://127.0.0.1/x",
    "s3://bucket/x",
    "r2://bucket@127.0.0.1/x",
    "b2://bucket@127.0.0.1/x",
    "wasbs://a@b.blob.core.windows.net/x",
    "abfss://a@127.0.0.1/x",
    "dbfs:/x",
    "mlflow-artifacts://127.0.0.1:5000/x",
    "mlflow-artifacts://169.254.169.254/x",
    "runs:/x/y",
    "models:/x/1",
    "data:text/plain,x",
    "javascript:alert(1)",
    "databricks://x",
    "sqlite:////tmp/x.db",
    "gs://bucket/x#fragment",
    "GS:/secrets",
]


@pytest.mark.parametrize("location", LOCATIONS, ids=ascii)
def test_an_experiment_elsewhere_is_refused(location: str, user: User) -> None:
    body = {"name": secrets.token_hex(8), "artifact_location": location}
    for prefix in ("/api", "/ajax-api"):
        answer = user.ask("POST", f"{prefix}/2.0/mlflow/experiments/create", body)
        assert answer.status == 400, answer
        assert b"INVALID_PARAMETER_VALUE" in answer.body


def test_an_experiment_in_a_bucket_is_not(user: User) -> None:
    body = {"name": secrets.token_hex(8), "artifact_location": "gs://my-project-mlflow/elsewhere"}
    assert "experiment_id" in user.made("experiments/create", body)


STORED = [
    "/secrets",
    "file:///secrets",
    "file:/secrets",
    "/tmp",
    "http://127.0.0.1:5000/",
    "https://127.0.0.1/x",
]


@pytest.mark.parametrize("stored", STORED)
def test_a_place_that_got_into_the_database_is_not_used(stored: str, user: User, place: Place) -> None:
    """Written by an MLflow before this one, or through a hole that nobody knows."""
    run = user.run()
    place.sql(f"update runs set artifact_uri = '{stored}' where run_uuid = '{run}'")
    for name in ("oauth2-proxy.cfg", "authenticated-emails", "health"):
        for path in (f"/get-artifact?run_id={run}&path={name}", f"/get-artifact?run_uuid={run}&path={name}"):
            answer = user.ask("GET", path)
            assert answer.status == 400, answer
            assert b"cookie_secret" not in answer.body
    assert user.ask("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}").status == 400
    upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=authenticated-emails"
    assert user.ask("POST", upload, b"mallory@elsewhere.test").status == 400
    allowed = user.service.container.exec_run("cat /tmp/authenticated-emails").output
    assert b"mallory" not in allowed  # OAuth2-Proxy reads it anew when it changes


def test_a_model_in_a_file_is_neither_taken_nor_served(user: User, place: Place) -> None:
    name = secrets.token_hex(8)
    user.made("registered-models/create", {"name": name})
    sources = [
        "/secrets",
        "file:///secrets",
        "http://169.254.169.254/x",
        "ftp://127.0.0.1/x",
        "runs:/x/../../secrets",
    ]
    for source in [
        *sources,
        "gs://bucket/../x",
        "gs://bucket/%2e%2e/x",
        "mlflow-artifacts://127.0.0.1/x",
        "../x",
    ]:
        answer = user.ask("POST", "/api/2.0/mlflow/model-versions/create", {"name": name, "source": source})
        assert answer.status == 400, (source, answer)
    version = user.made("model-versions/create", {"name": name, "source": "gs://my-project-mlflow/x"})
    assert version["model_version"]["version"] == "1"
    for stored in STORED:
        columns = f"source = '{stored}', storage_location = '{stored}'"
        place.sql(f"update model_versions set {columns} where name = '{name}'")
        answer = user.ask("GET", f"/model-versions/get-artifact?name={name}&version=1&path=oauth2-proxy.cfg")
        assert answer.status == 400, (stored, answer)


def test_a_trace_in_a_file_is_not_served(user: User, place: Place) -> None:
    experiment = user.made("experiments/create", {"name": secrets.token_hex(8)})["experiment_id"]
    number = secrets.token_hex(16)
    span = {"traceId": number, "spanId": secrets.token_hex(8), "name": "x"}
    span |= {"startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000001000000000"}
    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    answer = user.ask("POST", "/v1/traces", spans, ("X-Mlflow-Experiment-Id", experiment))
    assert answer.status == 200, answer
    trace = f"tr-{number}"
    tag = {"key": "mlflow.artifactLocation", "value": "/secrets"}
    user.ask("PATCH", f"/api/2.0/mlflow/traces/{trace}/tags", tag)
    place.sql(f"delete from trace_tags where request_id = '{trace}' and key like 'mlflow.%ocation'")
    for key, value in (
        ("artifactLocation", "/secrets"),
        ("trace.archiveLocation", "/proc/self"),
        ("trace.spansLocation", "ARCHIVE_REPO"),
    ):
        row = f"('mlflow.{key}', '{value}', '{trace}')"
        place.sql(f"insert into trace_tags (key, value, request_id) values {row}")
    for query in (
        "",
        "&path=oauth2-proxy.cfg",
        "&path=../environ",
        "&path=8d1f5b0e-0000-4000-8000-000000000000",
    ):
        answer = user.ask("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}{query}")
        assert answer.status == 400, answer
        assert b"cookie_secret" not in answer.body


TRAVERSALS = [
    "../a.txt",
    "../../../../../../etc/passwd",
    "x/../../a.txt",
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "%2e%2e/a.txt",
    "%2e%2e%2fa.txt",
    "%252e%252e%252fa.txt",
    "%25252e%25252e/a.txt",
    "C:\\Windows",
    "\\\\host\\share",
]
NAMES = [
    "..\\a.txt",
    "x\\..\\..\\a.txt",
    "..%c0%afa.txt",
    "..;/a.txt",
    "a.txt\x00",
    "...",
    "~/a.txt",
    "$HOME",
    "*",
]


@pytest.mark.parametrize("path", TRAVERSALS, ids=ascii)
def test_a_path_out_of_a_run_is_refused(path: str, user: User, run: str) -> None:
    for answer in asked_for(path, user, run):
        assert answer.status == 400, answer


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_like_a_path_is_a_name(name: str, user: User, run: str) -> None:
    """Of an object in the run's folder, that is not there."""
    for answer in asked_for(name, user, run):
        assert answer.status in (200, 400, 500), answer
        assert b"root:" not in answer.body and b"harmless" not in answer.body and b"files" not in answer.body


def asked_for(path: str, user: User, run: str) -> list[Answer]:
    """Ask each of the ways to a run's artifacts for a path."""
    quoted = quote(path, safe="")
    return [
        user.ask("GET", f"/get-artifact?run_id={run}&path={quoted}"),
        user.ask("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={quoted}"),
        user.ask("GET", f"/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path={quoted}"),
    ]


def test_an_upload_out_of_a_run_is_refused(user: User, run: str) -> None:
    for path in TRAVERSALS:
        url = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path={quote(path, safe='')}"
        assert user.ask("POST", url, b"x").status == 400, path


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/server/handlers.py",
        "..%5c..%5cetc",
        "%2fetc%2fpasswd",
        "index.html%00.js",
    ],
)
def test_a_path_out_of_the_uis_files_is_refused(path: str, user: User) -> None:
    answer = user.ask("GET", f"/static-files/{path}")
    assert answer.status in (301, 400, 404), answer
    assert b"root:" not in answer.body and b"import" not in answer.body


# Addresses -------------------------------------------------------------------------------------------------

EVENT = {"entity": "REGISTERED_MODEL", "action": "CREATED"}


@pytest.fixture
def names(place: Place) -> Iterator[Any]:
    """Has a name lead to an address in the container, as its name server would; forgets it afterwards."""

    def lead(name: str, address: str) -> None:
        command = (
            f"grep -v ' {name}$' {kept} >/tmp/h; cat /tmp/h >/etc/hosts; echo '{address} {name}' >>/etc/hosts"
        )
        done = place.named().exec_run(["sh", "-c", command], user="0")
        assert done.exit_code == 0, done.output

    kept = "/tmp/hosts-before"
    place.named().exec_run(f"cp /etc/hosts {kept}", user="0")
    yield lead
    place.named().exec_run(["sh", "-c", f"cat {kept} >/etc/hosts; rm -f {kept} /tmp/h"], user="0")


@pytest.mark.parametrize("host", PRIVATE)
def test_a_webhook_to_a_private_address_is_refused(host: str, user: User, names: Any) -> None:
    names("metadata.google.internal", METADATA)
    body = {"name": "hook", "url": f"https://{host}/computeMetadata/v1/", "events": [EVENT]}
    answer = user.ask("POST", "/api/2.0/mlflow/webhooks", body)
    assert answer.status == 400, answer
    listed = json.loads(user.ask("GET", "/api/2.0/mlflow/webhooks").body or b"{}")
    assert listed.get("webhooks", []) == []


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "gopher", "HTTP", "https+unix"])
def test_a_webhook_of_another_scheme_is_refused(scheme: str, user: User) -> None:
    body = {"name": "hook", "url": f"{scheme}://8.8.8.8/", "events": [EVENT]}
    assert user.ask("POST", "/api/2.0/mlflow/webhooks", body).status == 400


def test_a_webhook_whose_name_turns_private_is_not_called(user: User, names: Any) -> None:
    """DNS rebinding: the name is public when the webhook is made, and not when it is tried."""
    names("rebound.test", "8.8.8.8")
    body = {"name": "hook", "url": "https://rebound.test/", "events": [EVENT]}
    hook = user.made("webhooks", body)["webhook"]["webhook_id"]
    try:
        names("rebound.test", METADATA)
        answer = user.ask("POST", f"/api/2.0/mlflow/webhooks/{hook}/test", {})
        assert answer.status == 400 or not json.loads(answer.body)["result"]["success"]
        assert b"non-public IP" in answer.body, answer
        changed = user.ask("PATCH", f"/api/2.0/mlflow/webhooks/{hook}", {"url": f"https://{METADATA}/"})
        assert changed.status == 400
    finally:
        assert user.ask("DELETE", f"/api/2.0/mlflow/webhooks/{hook}").status == 200


GATEWAY = [
    ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
    ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create"),
    ("POST", "/api/3.0/mlflow/gateway/secrets/update"),
    ("POST", "/api/3.0/mlflow/gateway/model-definitions/create"),
    ("POST", "/api/3.0/mlflow/gateway/endpoints/create"),
    ("POST", "/gateway/any/mlflow/invocations"),
    ("POST", "/gateway/mlflow/v1/chat/completions"),
    ("GET", "/gateway/mlflow/v1/models"),
    ("POST", "/gateway/openai/v1/chat/completions"),
    ("POST", "/gateway/openai/v1/embeddings"),
    ("POST", "/gateway/openai/v1/responses"),
    ("POST", "/gateway/anthropic/v1/messages"),
    ("POST", "/gateway/gemini/v1beta/models/any:generateContent"),
    ("POST", "/gateway/proxy/any/v1/models"),
]


@pytest.mark.parametrize(("method", "path"), GATEWAY)
def test_the_gateway_is_closed(method: str, path: str, user: User) -> None:
    """Its Vertex AI provider sends the service account's own token to a host that the caller names."""
    answer = user.ask(method, path, {"secret_name": "a", "secret_value": {"k": "v"}, "model": "any"})
    assert answer.status == 501, answer
    assert b"AI Gateway feature is disabled" in answer.body


def test_the_old_gateway_leads_nowhere(user: User) -> None:
    for gateway_path in ("api/2.0/endpoints/", "http://169.254.169.254/", "../"):
        answer = user.ask("GET", f"/ajax-api/2.0/mlflow/gateway-proxy?gateway_path={gateway_path}")
        assert (answer.status, json.loads(answer.body)) == (200, {"endpoints": []})


# Programs --------------------------------------------------------------------------------------------------

ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
LOCAL: list[list[Header]] = [
    [],
    [("X-Forwarded-For", "127.0.0.1")],
    [("X-Forwarded-For", "::1")],
    [("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")],
    [("Connection", "X-Forwarded-For, close")],
    [("Connection", "close, X-Forwarded-For, X-Forwarded-Proto"), ("X-Forwarded-For", "127.0.0.1")],
]


@pytest.mark.parametrize("local", LOCAL, ids=str)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/message"),
        ("GET", "/config"),
        ("PUT", "/config"),
        ("GET", "/providers"),
        ("GET", "/providers/claude_code/health"),
        ("POST", "/skills/install"),
        ("GET", "/sessions/x/stream"),
        ("POST", "/sessions/x/permission"),
    ],
)
def test_the_assistant_is_closed(method: str, path: str, local: list[Header], user: User) -> None:
    answer = user.ask(method, ASSISTANT + path, {"message": "id"} if method != "GET" else None, *local)
    assert (answer.status, answer.body) == (403, b'{"detail": "The assistant is closed here"}')


def test_nothing_runs_as_a_job(user: User) -> None:
    for name in ("optimize_prompts", "invoke_scorer", "run_online_trace_scorer", "os.system", "x"):
        answer = user.ask("POST", "/ajax-api/3.0/jobs/", {"job_name": name, "params": {}})
        assert answer.status in (400, 500), answer
    assert json.loads(user.ask("POST", "/ajax-api/3.0/jobs/search", {}).body) == {"jobs": []}


@pytest.mark.parametrize(
    "path", ["/metrics", "/docs", "/redoc", "/openapi.json", "/signup", "/console", "/debug"]
)
def test_what_is_not_there(path: str, user: User) -> None:
    assert user.ask("GET", path).status == 404
