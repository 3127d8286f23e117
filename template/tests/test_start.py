"""start.sh with fake children: what it checks, in which order it starts, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = {
    "BACKEND_STORE_URI": "postgresql+psycopg2://u:top-secret@/d",
    "DEFAULT_ARTIFACT_ROOT": "gs://bucket",
    "OAUTH_PROXY_CONFIG": "/nowhere.cfg",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "passphrase",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://localhost",
}
# An MLflow that answers /health; on TERM it notes the time of its end in the diary.
MLFLOW = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
    def log_message(self, *_): pass
def end(*_):
    open("diary", "a").write("mlflow ends\\n"); os._exit(int(os.environ.get("END_CODE", 0)))
signal.signal(signal.SIGTERM, end)
open("diary", "a").write("mlflow starts\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# A proxy that on TERM still serves a request from MLflow, then ends.
PROXY = """
import os, signal, sys, time, urllib.request
def end(*_):
    time.sleep(0.5)
    status = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health").status
    open("diary", "a").write(f"proxy drained with {status}\\n"); os._exit(0)
signal.signal(signal.SIGTERM, end)
open("diary", "a").write("proxy starts\\n")
print("proxy ready", flush=True)
while True: time.sleep(60)
"""


class Start:
    """One start.sh in a folder of its own, its functions replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "mlflow.py").write_text(MLFLOW)
        (folder / "proxy.py").write_text(PROXY)
        self.functions = {
            "preflight": ":",
            "start_mlflow": f"exec {sys.executable} mlflow.py $MLFLOW_PORT",
            "start_proxy": f"exec {sys.executable} proxy.py $MLFLOW_PORT",
        }

    def run(self, environment: dict[str, str] | None = None, **functions: str) -> subprocess.Popen[str]:
        bodies = {**self.functions, **functions}
        script = f"source {ROOT}/start.sh\nMLFLOW_PORT={self.port}\n"
        script += "\n".join(f"{name}() {{ {body}; }}" for name, body in bodies.items() if body)
        return subprocess.Popen(
            ["bash", "-c", script + "\nmain"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], **(CONTRACT if environment is None else environment)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def diary(self) -> list[str]:
        path = self.folder / "diary"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; no child may hold the pipes open after it."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "proxy ready\n"


def test_missing_variables_are_named_all_at_once(start: Start) -> None:
    code, errors = ended(start.run(environment={"OAUTH_PROXY_CONFIG": ""}))
    assert code == 1
    assert all(name in errors.splitlines()[0] for name in CONTRACT)
    assert start.diary == []


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "08", "1e3", "OWN"])
def test_a_port_that_does_not_do_is_refused(start: Start, port: str) -> None:
    port = str(start.port) if port == "OWN" else port
    code, errors = ended(start.run({**CONTRACT, "PORT": port}, start_mlflow="exit 9"))
    assert code == 1
    assert (f"PORT is '{port}'" in errors) is bool(port)  # unset means 4180, and MLflow's end is said
    assert ("MLflow ended" in errors) is not bool(port)


def test_the_port_stays_closed_when_the_preflight_fails(start: Start) -> None:
    code, _ = ended(start.run(preflight="until [[ -s diary ]]; do sleep 0.02; done; return 1"))
    assert code == 1
    assert start.diary == ["mlflow starts", "mlflow ends"]


def test_an_unreachable_issuer_stops_the_start(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "proxy.cfg"
    config.write_text(
        'email_domains = ["a.test"]\nprovider = "oidc"\noidc_audience_claims = ["project_path"]\n'
        "insecure_oidc_skip_nonce = false\n"
        f'oidc_issuer_url = "http://127.0.0.1:{start.port}"\n'
    )
    environment = {"OAUTH_PROXY_CONFIG": str(config), "ISSUER_DEADLINE": "1", "PYTHONPATH": str(ROOT)}
    code, errors = ended(start.run({**CONTRACT, **environment}, preflight=""))
    assert code == 1
    assert "did not answer" in errors
    assert "proxy starts" not in start.diary


def test_mlflow_first_then_the_proxy(start: Start) -> None:
    process = start.run()
    ready(process)
    assert start.diary == ["mlflow starts", "proxy starts"]
    process.send_signal(signal.SIGTERM)
    ended(process)


def test_an_mlflow_that_ends_before_it_answers_fails_the_start(start: Start) -> None:
    code, errors = ended(start.run(start_mlflow="exit 0"))
    assert code == 1
    assert "MLflow ended before it answered" in errors
    assert start.diary == []


def test_an_mlflow_that_never_answers_fails_the_start(start: Start) -> None:
    code, errors = ended(start.run({**CONTRACT, "HEALTH_DEADLINE": "1"}, start_mlflow="exec sleep 60"))
    assert code == 1
    assert "MLflow did not answer within 1 seconds" in errors
    assert start.diary == []


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (0, 1)])
def test_a_proxy_that_ends_takes_mlflow_along(start: Start, status: int, expected: int) -> None:
    code, errors = ended(start.run(start_proxy=f"sleep 0.3; exit {status}"))
    assert code == expected
    assert f"OAuth2-Proxy ended by itself (exit code {status})" in errors
    assert start.diary == ["mlflow starts", "mlflow ends"]


@pytest.mark.parametrize(("status", "expected"), [(7, 7), (0, 1)])
def test_an_mlflow_that_ends_takes_the_proxy_along(start: Start, status: int, expected: int) -> None:
    proxy = "trap 'echo proxy ends >>diary; exit 0' TERM; kill $mlflow_pid; while true; do sleep 0.1; done"
    code, errors = ended(start.run({**CONTRACT, "END_CODE": str(status)}, start_proxy=proxy))
    assert code == expected
    assert f"MLflow ended by itself (exit code {status})" in errors
    assert start.diary == ["mlflow starts", "mlflow ends", "proxy ends"]


def test_term_drains_the_proxy_while_mlflow_still_answers(start: Start) -> None:
    process = start.run()
    ready(process)
    process.send_signal(signal.SIGTERM)
    code, _ = ended(process)
    assert code == 0
    assert start.diary[2:] == ["proxy drained with 200", "mlflow ends"]


@pytest.mark.parametrize("function", ["preflight", "start_mlflow", "start_proxy"])
def test_term_before_a_childs_number_is_noted(start: Start, function: str) -> None:
    """The child itself sends it, the moment it is there."""
    process = start.run(**{function: "kill -TERM $$; exec sleep 60"})
    assert ended(process)[0] == 0


@pytest.mark.parametrize("function", ["preflight", "start_mlflow"])
def test_term_while_starting(start: Start, function: str) -> None:
    process = start.run(**{function: "echo proxy ready; exec sleep 60"})
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_children_that_ignore_term_are_killed(start: Start) -> None:
    stubborn = "trap '' TERM; echo proxy ready; while true; do sleep 0.1; done"
    process = start.run({**CONTRACT, "DRAIN_SECONDS": "1"}, start_proxy=stubborn)
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    assert start.diary == ["mlflow starts", "mlflow ends"]


def test_the_proxy_gets_neither_database_nor_passphrase(start: Start, tmp_path: Path) -> None:
    fake = tmp_path / "oauth2-proxy"
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        'json.dump([sys.argv[1:], dict(os.environ)], open("seen.json", "w"))\n'
    )
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    ended(start.run({**CONTRACT, "PATH": path, "PORT": "8080"}, start_proxy=""))
    arguments, environment = json.loads((tmp_path / "seen.json").read_text())
    assert arguments == ["--config", "/nowhere.cfg", "--http-address", "0.0.0.0:8080"]
    assert not {"BACKEND_STORE_URI", "MLFLOW_CRYPTO_KEK_PASSPHRASE"} & set(environment)
    assert len(environment["OAUTH2_PROXY_BASIC_AUTH_PASSWORD"]) == 44
