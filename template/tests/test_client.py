"""The client's sign-in: where tokens come from, when they are renewed, and where they never go."""

import http.server
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from mlflow_google_auth import GoogleAuthProvider, sources, tokens
from mlflow_google_auth.auth import GoogleAuth, origin
from mlflow_google_auth.sources import NotSignedInError, Source
from mlflow_google_auth.tokens import Tokens

ROOT = Path(__file__).parent.parent
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
SIGNER = crypt.RSASigner.from_string(PEM)
EMAIL = "trainer@my-project.iam.gserviceaccount.com"
SERVICE = "https://mlflow-1.europe-west1.run.app"
HOUR = 3600


def signed(audience: str = SERVICE, life: float = HOUR, issued: float | None = None, **claims: Any) -> str:
    issued = time.time() if issued is None else issued
    payload = {"iss": "https://accounts.google.com", "aud": audience, "iat": issued, "exp": issued + life}
    return jwt.encode(SIGNER, {**payload, "email": EMAIL, **claims}).decode()


class Server:
    """A server of 127.0.0.1 that keeps what it was asked."""

    def __init__(self, answer: Callable[[str], tuple[int, dict[str, str], str]]) -> None:
        self.asked: list[tuple[str, str]] = []  # path, Authorization
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.path, self.headers.get("Authorization", "")))
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(answer: Callable[[str], tuple[int, dict[str, str], str]]) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where nobody is signed in."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "MLFLOW_TRACKING_IMPERSONATE_SERVICE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("GCE_METADATA_HOST", "metadata.invalid")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in the first element."""
    now = [1_000_000.0]
    monkeypatch.setattr(tokens.time, "time", lambda: now[0])
    return now


def found(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[], str]) -> None:
    """Let the machine's identity be this."""
    monkeypatch.setattr(tokens, "find", lambda *_: Source("the test", fetch))


def gcloud(tmp_path: Path, script: str) -> None:
    """Let gcloud be this shell script."""
    path = tmp_path / "bin/gcloud"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def signs_in(server: str, source: Tokens) -> GoogleAuth:
    return GoogleAuth(origin(server), source)


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has MLflow, as far as the client asks it anything."""
    stub = """
        import os, sys, types
        mlflow = sys.modules["mlflow"] = types.ModuleType("mlflow")
        mlflow.get_tracking_uri = lambda: os.environ["MLFLOW_TRACKING_URI"]
        from mlflow_google_auth import GoogleAuthProvider
        import requests
        provider = GoogleAuthProvider()
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(stub) + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client"), "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def metadata(path: str) -> tuple[int, dict[str, str], str]:
    """What Google's metadata server answers."""
    flavor = {"Metadata-Flavor": "Google"}
    if path == "/computeMetadata/v1/instance/service-accounts/default/?recursive=true":
        shown = {"email": EMAIL, "aliases": ["default"], "scopes": []}
        return 200, {**flavor, "Content-Type": "application/json"}, json.dumps(shown)
    if not path.startswith("/computeMetadata/v1/instance/service-accounts/default/identity?"):
        return 200 if path == "/" else 404, flavor, ""
    assert "format=full" in path
    flavor["Content-Type"] = "text/html"
    return 200, flavor, signed(requests.utils.unquote(path.partition("audience=")[2].partition("&")[0]))


# Where tokens come from ------------------------------------------------------------------------------


def test_on_google_cloud_the_metadata_server_gives_them(serve: Callable[..., Server]) -> None:
    server, google = serve(lambda path: (200, {}, "ok")), serve(metadata)
    script = """
        url = os.environ["MLFLOW_TRACKING_URI"]
        session = requests.Session()
        session.trust_env = False
        for path in ("/api/1", "/api/2"):
            assert session.get(url + path, auth=provider.get_auth()).text == "ok"
    """
    # The metadata server is no proxy's business.
    proxy = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    done = python(script, MLFLOW_TRACKING_URI=server.url, GCE_METADATA_HOST=google.host, **proxy)
    assert done.returncode == 0, done.stderr
    assert [path for path, _ in server.asked] == ["/api/1", "/api/2"]
    (authorization,) = {authorization for _, authorization in server.asked}
    claims = jwt.decode(authorization.removeprefix("Bearer "), verify=False)
    assert claims["aud"] == server.url
    assert len([path for path, _ in google.asked if "identity" in path]) == 1
    assert authorization.removeprefix("Bearer ") not in done.stdout + done.stderr


def test_a_key_signs_for_them(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = serve(lambda path: (200, {}, json.dumps({"id_token": signed()})))
    key = tmp_path / "key.json"
    fields = {"client_email": EMAIL, "token_uri": f"{google.url}/token", "private_key": PEM}
    key.write_text(json.dumps({"type": "service_account", **fields}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    token = Tokens(SERVICE).get()
    assert (token.email, token.audience) == (EMAIL, SERVICE)
    assert str(key) in token.source


def test_a_person_has_gclouds(tmp_path: Path) -> None:
    gcloud(tmp_path, f'echo "$@" >{tmp_path}/said; echo {signed(email="ann@example.com")}')
    assert Tokens(SERVICE).get().email == "ann@example.com"
    assert (tmp_path / "said").read_text() == "auth print-identity-token --quiet\n"


def test_gcloud_impersonates(tmp_path: Path) -> None:
    gcloud(tmp_path, f'echo "$@" >{tmp_path}/said; echo {signed()}')
    assert Tokens(SERVICE, EMAIL).get().email == EMAIL
    said = (tmp_path / "said").read_text()
    assert f"--impersonate-service-account={EMAIL} --audiences={SERVICE} --include-email" in said


def test_a_persons_file_for_another_client_is_left_to_gcloud(tmp_path: Path) -> None:
    (tmp_path / "gcloud").mkdir()
    fields = {"client_id": "764086051850-x.apps.googleusercontent.com", "refresh_token": "x"}
    file = tmp_path / "gcloud/application_default_credentials.json"
    file.write_text(json.dumps({"type": "authorized_user", "client_secret": "x", **fields}))
    with pytest.raises(NotSignedInError, match="for another client only.+no gcloud on PATH"):
        Tokens(SERVICE).get()
    gcloud(tmp_path, f"echo {signed()}")
    assert Tokens(SERVICE).get().source == "gcloud's login"


def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(text)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


POOL = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {"file": "/nowhere"},
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 column 2"),
        ("[]", "no credentials"),
        ('{"type": "gdch_service_account"}', "type gdch_service_account have no identity tokens"),
        ('{"type": "service_account"}', "missing fields"),
        (json.dumps(POOL), "names no service account.+MLFLOW_TRACKING_IMPERSONATE_SERVICE_ACCOUNT"),
    ],
)
def test_a_broken_file_is_a_sentence(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials(tmp_path, monkeypatch, text)
    with pytest.raises(NotSignedInError, match=words):
        Tokens(SERVICE).get()


def test_a_file_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(NotSignedInError, match="No such file.+/nowhere.json"):
        Tokens(SERVICE).get()


def test_nobody_signed_in_says_what_was_tried_and_what_to_do() -> None:
    with pytest.raises(NotSignedInError) as caught:
        Tokens(SERVICE).get()
    for words in (
        "no credentials' file, no metadata server at metadata.invalid, no gcloud on PATH",
        "gcloud auth login",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        assert words in str(caught.value)


def test_gclouds_own_words_are_passed_on(tmp_path: Path) -> None:
    gcloud(tmp_path, 'echo "ERROR: You do not currently have an active account selected." >&2; exit 1')
    with pytest.raises(NotSignedInError, match="gcloud's login gives .+ active .+`gcloud auth login`"):
        Tokens(SERVICE).get()


# When they are renewed -------------------------------------------------------------------------------


def test_a_token_is_kept_then_renewed_before_it_ends(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    found(monkeypatch, lambda: made.append(signed(issued=clock[0], jti=str(len(made)))) or made[-1])
    this = Tokens(SERVICE)
    first = this.get()
    clock[0] += HOUR - tokens.MARGIN - 1
    assert this.get() is first
    clock[0] += 1
    assert this.get().value == made[1] != first.value


def test_a_server_that_repeats_itself_is_asked_now_and_then(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata servers keep a token, too."""
    value, asked = signed(issued=clock[0]), []
    found(monkeypatch, lambda: asked.append(clock[0]) or value)
    this, begin = Tokens(SERVICE), clock[0]
    for clock[0] in range(int(begin), int(begin) + HOUR):
        this.get()
    assert asked == [begin, *range(int(begin) + HOUR - 300, int(begin) + HOUR, 30)]


def test_a_renewal_that_fails_is_no_loss_while_the_token_is_good(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [signed(issued=clock[0])]

    def fetch() -> str:
        if not answers:
            raise OSError("no network")
        return str(answers.pop())

    found(monkeypatch, fetch)
    this = Tokens(SERVICE)
    first = this.get()
    clock[0] += HOUR - 10
    assert this.get() is first
    clock[0] += 10
    with pytest.raises(NotSignedInError, match="the test gives no identity token: no network"):
        this.get()
    answers.append(signed(issued=clock[0]))
    assert this.get() is not first


def test_sixteen_threads_share_each_of_a_thousand_renewals(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    tokens_of_an_hour = [signed(issued=clock[0] + HOUR * n) for n in range(1000)]
    found(monkeypatch, lambda: made.append(tokens_of_an_hour[len(made)]) or made[-1])
    this, barrier = Tokens(SERVICE), threading.Barrier(16)
    wrong: list[str] = []

    def work() -> None:
        for hour in range(1000):
            if barrier.wait() == 0:
                clock[0] = 1_000_000.0 + HOUR * hour
            barrier.wait()
            if this.get().value != tokens_of_an_hour[hour]:
                wrong.append(f"{hour}")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(made) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_in_the_middle_of_a_renewal_has_tokens_too() -> None:
    script = """
        import threading, time
        from mlflow_google_auth import tokens
        from mlflow_google_auth.sources import Source

        parent, entered, proceed = os.getpid(), threading.Event(), threading.Event()

        def fetch():
            if os.getpid() == parent:
                entered.set()
                proceed.wait()
            return os.environ["TOKEN"]

        tokens.find = lambda *_: Source("the test", fetch)
        request = requests.Request("GET", os.environ["MLFLOW_TRACKING_URI"])

        def sign():
            auth = provider.get_auth()
            return requests.Session().prepare_request(request) and auth(request.prepare())

        thread = threading.Thread(target=sign)
        thread.start()
        entered.wait()
        child = os.fork()
        if not child:
            signed = sign()
            os._exit(0 if signed.headers["Authorization"] == "Bearer " + os.environ["TOKEN"] else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        proceed.set()
        thread.join()
        sys.exit(code)
    """
    done = python(script, MLFLOW_TRACKING_URI=SERVICE, TOKEN=signed())
    assert done.returncode == 0, done.stderr


# Where they never go ---------------------------------------------------------------------------------

ELSEWHERE = [
    "https://evil.test/",
    "http://mlflow-1.europe-west1.run.app/",
    "https://mlflow-1.europe-west1.run.app:8443/",
    "https://mlflow-1.europe-west1.run.app.evil.test/",
    "https://mlflow-1.europe-west1.run.app@evil.test/",
    "https://evil.test/?https://mlflow-1.europe-west1.run.app/",
    "https://mlflow-2.europe-west1.run.app/",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_not_to_another_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, signed)
    request = requests.Request("GET", url, auth=signs_in(SERVICE, Tokens(SERVICE)))
    with pytest.raises(NotSignedInError, match=f"not sent to .+MLFLOW_TRACKING_URI is {SERVICE}"):
        request.prepare()


def test_the_same_server_by_another_spelling() -> None:
    assert origin("HTTPS://MLflow-1.run.app:443/api/2.0?x=y") == origin("https://mlflow-1.run.app")
    assert origin("http://[::1]:4180/x") == "http://[::1]:4180"
    assert origin("sqlite:///mlflow.db") == origin("databricks") == ""


def test_not_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, signed)
    request = requests.Request("GET", "http://mlflow.test/", auth=signs_in("http://mlflow.test", Tokens("x")))
    with pytest.raises(NotSignedInError, match="in clear: MLFLOW_TRACKING_URI needs https"):
        request.prepare()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_not_after_a_redirect(
    status: int, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, signed)
    elsewhere = serve(lambda path: (401, {}, "{}"))
    server = serve(lambda path: (status, {"Location": f"{elsewhere.url}/page"}, ""))
    auth = signs_in(server.url, Tokens(server.url))
    answer = requests.post(f"{server.url}/api", json={}, auth=auth, timeout=10)
    assert answer.status_code == 401
    assert server.asked[0][1].startswith("Bearer ")
    assert elsewhere.asked == [("/page", "")]


def test_not_into_logs_and_messages(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    value = signed()
    found(monkeypatch, lambda: value)
    server = serve(lambda path: (401, {}, "{}"))
    this = Tokens(server.url)
    auth = signs_in(server.url, this)
    with caplog.at_level(logging.DEBUG), pytest.raises(NotSignedInError) as caught:
        requests.get(server.url, auth=auth, timeout=10)
    token = Tokens(server.url).get()
    assert caplog.records
    shown = [caplog.text, str(caught.value), *(f"{thing!r} {thing}" for thing in (auth, this, token))]
    assert not any(piece in text for text in shown for piece in value.split("."))


# Refusals --------------------------------------------------------------------------------------------


def refused(server: Server, auth: GoogleAuth, **options: Any) -> str:
    with pytest.raises(NotSignedInError) as caught:
        requests.get(f"{server.url}/api", auth=auth, timeout=10, **options)
    return str(caught.value)


def test_401_says_whose_token_it_was(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, signed)
    server = serve(lambda path: (401, {}, "{}"))
    said = refused(server, signs_in(server.url, Tokens(server.url)))
    for words in (f"(401) of {EMAIL}, by the test, for {SERVICE}, until", "`invoke url`", "clock"):
        assert words in said


def test_after_401_another_one_is_fetched(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [signed(jti="1"), signed(jti="2")]
    found(monkeypatch, lambda: values.pop(0))
    answers = [401, 200]
    server = serve(lambda path: (answers.pop(0), {}, "{}"))
    auth = signs_in(server.url, Tokens(server.url))
    refused(server, auth)
    assert requests.get(f"{server.url}/api", auth=auth, timeout=10).status_code == 200
    assert len({authorization for _, authorization in server.asked}) == 2


def test_403_says_who_is_not_in(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, signed)
    server = serve(lambda path: (403, {}, "<html>This account may not enter"))
    said = refused(server, signs_in(server.url, Tokens(server.url)))
    assert f"you are {EMAIL}, by the test" in said
    assert f"`invoke access --add {EMAIL}`" in said


@pytest.mark.parametrize("body", ['{"error_code": "PERMISSION_DENIED"}', "Invalid Host header"])
def test_what_mlflow_itself_refuses_is_left_to_it(
    body: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, signed)
    server = serve(lambda path: (403, {}, body))
    auth = signs_in(server.url, Tokens(server.url))
    assert requests.get(f"{server.url}/api", auth=auth, timeout=10).text == body


def test_a_token_that_is_set_is_left_and_named_when_refused(serve: Callable[..., Server]) -> None:
    server = serve(lambda path: (401, {}, "{}"))
    auth = signs_in(server.url, Tokens(server.url))
    said = refused(server, auth, headers={"Authorization": "Bearer of-my-own"})
    assert "MLFLOW_TRACKING_TOKEN" in said and "unset it" in said
    assert server.asked == [("/api", "Bearer of-my-own")]


def test_what_is_no_token_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, lambda: "<html>sign in to this network</html>")
    with pytest.raises(NotSignedInError, match="the test gives no identity token: "):
        Tokens(SERVICE).get()


def test_its_name_is_the_settings_value() -> None:
    assert GoogleAuthProvider().get_name() == "google"
    assert sources.GCLOUD_CLIENT_ID in (ROOT / "deployment/proxy.py").read_text()
