"""People and programs at the local stack: who may enter, tokens that end, refusals that say what to do."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from deployment.local.layout import CLIENT_ID
from deployment.local.token import local_token
from google.auth import jwt

from emulator.identity import load, new_key
from tests.conftest import local_stack
from tests.local import Local
from tests.programs import RUN, TRAINING, TRAINING_FILE, install_client, python

pytestmark = pytest.mark.docker
ALICE, MALLORY = "alice@example.com", "mallory@elsewhere.test"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
SECONDS = 6  # that a token lives
LIST = '  allowed:\n    - "example.com"'
AUTH = {"MLFLOW_TRACKING_AUTH": "google"}
GOOGLE = "https://oauth2.googleapis.com/token"  # whom assertions are for, whatever a key file names


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A stack whose provider's tokens end soon; its log must be clean."""
    with local_stack(tmp_path_factory.mktemp("access"), service="mlflow-access") as made:
        file = made.folder / "deployment/local/containers.py"
        text = file.read_text()
        assert text.count("TOKEN_SECONDS = 12 * 60 * 60") == 1
        file.write_text(text.replace("TOKEN_SECONDS = 12 * 60 * 60", f"TOKEN_SECONDS = {SECONDS}"))
        made.up()
        yield made
        made.assert_log_is_clean()


class Accounts:
    """Google's token endpoint for service accounts' keys; its identity tokens are the stack's provider's."""

    def __init__(self, stack: Local, folder: Path) -> None:
        """Serve on a port of this machine's loopback."""
        self._stack, self._folder = stack, folder
        self._key = new_key()
        public = load(self._key).public_key()
        self._public = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.renewals = 0
        accounts = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.dumps({"id_token": accounts.exchange(self.rfile.read(length).decode())}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def exchange(self, form: str) -> str:
        """Return the token of a signed assertion's account."""
        fields = parse_qs(form)
        assert fields["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        claims = jwt.decode(fields["assertion"][0], certs=self._public, audience=GOOGLE)
        assert claims["target_audience"] == self._stack.url
        self.renewals += 1
        return local_token(self._stack.issuer, CLIENT_ID, claims["iss"])

    def key(self, account: str) -> dict[str, str]:
        """Return the variable that names an account's key file."""
        path = self._folder / f"{account}.json"
        info = {"type": "service_account", "client_email": account, "token_uri": self.url}
        path.write_text(json.dumps({**info, "private_key": self._key, "private_key_id": "1"}))
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


@pytest.fixture(scope="module")
def accounts(stack: Local, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    """Service accounts with keys."""
    made = Accounts(stack, tmp_path_factory.mktemp("keys"))
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def program(stack: Local, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A machine's variables: the client is installed, and nobody is signed in to anything."""
    site, _ = install_client(stack.folder / "client", tmp_path_factory.mktemp("program"))
    return {
        **os.environ,
        "HOME": str(site.parent),
        "PATH": "/nowhere",
        "GCE_METADATA_HOST": "metadata.invalid",
        "PYTHONPATH": str(site),
        "MLFLOW_TRACKING_URI": stack.url,
    }


def status(stack: Local, user: str) -> int:
    return stack.session(user).get(stack.url + SEARCH, timeout=10).status_code


def test_somebody_is_let_in_and_shut_out_without_a_build(stack: Local) -> None:
    file = stack.folder / "invoke.yaml"
    before, image = file.read_text(), stack.container("mlflow").image.id
    assert (status(stack, ALICE), status(stack, MALLORY)) == (200, 403)
    assert before.count(LIST) == 1
    file.write_text(before.replace(LIST, f"{LIST}\n    - {MALLORY}"))
    stack.up()
    assert (status(stack, ALICE), status(stack, MALLORY)) == (200, 200)
    file.write_text(before)
    stack.up()
    assert (status(stack, ALICE), status(stack, MALLORY)) == (200, 403)
    assert stack.container("mlflow").image.id == image


def test_the_service_is_proved(stack: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    said = stack.invoke("smoke", "--url", stack.url).stdout
    assert "closed to strangers" in said
    assert "nothing was logged" in said
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", stack.token())
    said = stack.invoke("smoke", "--url", stack.url).stdout
    assert said.splitlines()[-1].split()[:2] == ["delete", "it"]


def test_a_program_logs_a_run(stack: Local, accounts: Accounts, program: dict[str, str]) -> None:
    run = python(RUN, {**program, **AUTH, **accounts.key(ALICE)})
    found = stack.session().get(f"{stack.url}/api/2.0/mlflow/runs/get?run_id={run}", timeout=10).json()
    assert [metric["value"] for metric in found["run"]["data"]["metrics"]] == [0.5]


def test_a_training_longer_than_its_tokens_loses_nothing(
    stack: Local, accounts: Accounts, program: dict[str, str]
) -> None:
    signed_in = {**program, **AUTH, **accounts.key(ALICE)}
    run = python(RUN, signed_in)
    before = accounts.renewals
    parts = json.loads(python(TRAINING_FILE, {**signed_in, "TRAINING": TRAINING}, "20", run))
    assert [failed for _, failed in parts] == [[]] * 7
    counts = {name: count for part, _ in parts for name, count in part.items()}
    assert len(counts) == 16 + 6 * 3
    # Seven processes, each with tokens that last for a quarter of 20 seconds
    assert accounts.renewals - before > 7 * 20 / SECONDS
    for name, count in counts.items():
        path = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={name}&max_results=10000"
        history = stack.session().get(stack.url + path, timeout=10).json()["metrics"]
        assert sorted(metric["value"] for metric in history) == list(range(count))


def test_a_token_that_has_ended_is_refused(stack: Local, program: dict[str, str]) -> None:
    token = stack.token()
    time.sleep(SECONDS + 1)
    said = python(RUN, {**program, **AUTH, "MLFLOW_TRACKING_TOKEN": token}, code=1)
    assert "answers 401 to what MLFLOW_TRACKING_TOKEN" in said


def test_who_is_not_allowed_reads_who_they_are_and_what_to_do(
    accounts: Accounts, program: dict[str, str]
) -> None:
    said = python(RUN, {**program, **AUTH, **accounts.key(MALLORY)}, code=1)
    assert f"does not let you in (403): you are {MALLORY}" in said
    assert f"`invoke access --add {MALLORY}`" in said


def test_nobody_signed_in_is_a_sentence(program: dict[str, str]) -> None:
    said = python(RUN, {**program, **AUTH}, code=1)
    assert "no Google identity here (no credentials' file, no metadata server at metadata.invalid" in said
