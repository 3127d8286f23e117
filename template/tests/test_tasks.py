"""The tasks as one types them."""

import os
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def invoke(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_list_needs_no_docker_and_no_gcloud(tmp_path: Path) -> None:
    done = invoke("--list", PATH=str(tmp_path), DOCKER_HOST="unix:///nowhere")
    assert done.returncode == 0
    assert "local-up" in done.stdout


@pytest.mark.parametrize("task", ["local-up", "local-down", "local-logs"])
def test_no_engine_is_one_sentence(task: str) -> None:
    done = invoke(task, DOCKER_HOST="unix:///nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("no Docker engine answers: start Docker")
    assert "Traceback" not in done.stderr


def test_an_engine_that_dies_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    """It answers the greeting, then hangs up."""
    address = str(tmp_path / "docker.sock")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            body = b'{"ApiVersion": "1.41", "Version": "20"}' if path.endswith("/version") else b"OK"
            if path.endswith(("/version", "/_ping")):
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                self.wfile.write(head.encode() + body)

    with socketserver.ThreadingUnixStreamServer(address, Handler) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        done = invoke("local-down", DOCKER_HOST=f"unix://{address}")
        engine.shutdown()
    assert done.returncode == 1
    assert done.stderr.startswith("the Docker engine failed:"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_setting_is_one_sentence(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".*_cache", "__pycache__"))
    settings = copy / "invoke.yaml"
    settings.write_text(settings.read_text().replace("memory: ", "memory: 1Mi # "))
    done = invoke("local-up", folder=copy)
    assert done.returncode == 1
    assert "memory is '1Mi'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["80", "4999", "70000"])
def test_a_port_that_does_not_do_is_refused(port: str) -> None:
    done = invoke("local-up", "--port", port)
    assert done.returncode == 1
    assert f"--port is {port}" in done.stderr


def test_own_tasks_are_listed(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".*_cache", "__pycache__"))
    (copy / "own_tasks.py").write_text(
        'from invoke import task\n\n\n@task\ndef hello(c):\n    """Say it."""\n    print("hello")\n'
    )
    assert invoke("own.hello", folder=copy).stdout == "hello\n"
