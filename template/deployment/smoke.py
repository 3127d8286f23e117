"""The running service, proved: what a program does first, done once and cleaned up."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from deployment.errors import DeploymentError

TIMEOUT = 60  # seconds; the first request may wait for a start


@dataclass(frozen=True)
class Step:
    """One step that passed."""

    name: str
    seconds: float
    seen: str


def is_local(url: str) -> bool:
    """Say whether an address is this machine's."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def safe(url: str) -> str:
    """Return an address that a token may be sent to, without what is after the host.

    Raises:
        DeploymentError: it is none.
    """
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or parts.scheme == "http" and is_local(url)):
        raise DeploymentError(f"--url is {url!r}: give https://HOST, as a token is sent there")
    return f"{parts.scheme}://{parts.netloc}"


class Smoke:
    """A session with the service at `url`, as the holder of `token`; without one, as a stranger."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def run(self) -> list[Step]:
        """See that strangers are sent to sign in; log a run with an artifact, read both back, delete it.

        Raises:
            DeploymentError: a step failed; the message says which, and what the service answered.
        """
        steps = [
            self._step("closed to strangers", self._closed),
            self._step("people sign in", self._sign_in),
        ]
        return steps + self._use() if self.token else steps

    def _use(self) -> list[Step]:
        name = f"smoke-{secrets.token_hex(4)}"
        text = secrets.token_hex(16)
        steps = [self._step("version", self._version)]
        experiment = self._api("POST", "experiments/create", name=name)["experiment_id"]
        try:
            info = self._api("POST", "runs/create", experiment_id=experiment)["run"]["info"]
            run = info["run_id"]
            steps += [
                self._step("log a metric", lambda: self._log(run)),
                self._step("read it back", lambda: self._read(run)),
                self._step("artifact up", lambda: self._put(run, text)),
                self._step("artifact down", lambda: self._get(run, text)),
            ]
        except DeploymentError:
            with contextlib.suppress(DeploymentError):  # the first one says what is wrong
                self._delete(experiment, name)
            raise
        steps.append(self._step("delete it", lambda: self._delete(experiment, name)))
        return steps

    def _delete(self, experiment: str, name: str) -> str:
        self._api("POST", "experiments/delete", experiment_id=experiment)
        return f"experiment {name}"

    def _step(self, name: str, work: Callable[[], str]) -> Step:
        begin = time.monotonic()
        try:
            seen = work()
        except DeploymentError as error:
            raise DeploymentError(f"smoke test of {self.url}, {name}: {error}") from None
        return Step(name, time.monotonic() - begin, seen)

    def _closed(self) -> str:
        answer = self._request("GET", "/api/2.0/mlflow/experiments/search", headers={"Authorization": None})
        if answer.status_code != 401:
            raise DeploymentError(f"without a token it answers {answer.status_code}, not 401")
        return "401 without a token"

    def _sign_in(self) -> str:
        answer = self._request("GET", "/", headers={"Authorization": None}, allow_redirects=False)
        host = urlsplit(answer.headers.get("Location", "")).netloc
        if answer.status_code != 302 or not host or host == urlsplit(self.url).netloc:
            raise DeploymentError(f"a browser gets {answer.status_code}, and is not sent to a provider")
        return f"at {host}"

    def _version(self) -> str:
        return f"MLflow {self._checked(self._request('GET', '/version')).text}"

    def _log(self, run: str) -> str:
        now = int(time.time() * 1000)
        self._api("POST", "runs/log-metric", run_id=run, key="smoke", value=0.5, timestamp=now)
        return "smoke = 0.5"

    def _read(self, run: str) -> str:
        metrics = self._api("GET", f"runs/get?run_id={run}")["run"]["data"].get("metrics", [])
        if [metric["value"] for metric in metrics] != [0.5]:
            raise DeploymentError(f"read back {metrics}")
        return "0.5"

    def _put(self, run: str, text: str) -> str:
        where = {"run_uuid": run, "path": "smoke.txt"}
        path = "/ajax-api/2.0/mlflow/upload-artifact"
        self._checked(self._request("POST", path, params=where, data=text))
        return "smoke.txt"

    def _get(self, run: str, text: str) -> str:
        where = {"run_uuid": run, "path": "smoke.txt"}
        answer = self._checked(self._request("GET", "/get-artifact", params=where))
        if answer.text != text:
            raise DeploymentError(f"read back {answer.text[:80]!r}, wrote {text!r}")
        return "the same bytes"

    def _api(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._request(method, f"/api/2.0/mlflow/{path}", json=body or None)
        return dict(self._checked(answer).json())

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self.session.request(method, self.url + path, timeout=TIMEOUT, **options)
        except requests.RequestException as error:
            raise DeploymentError(f"no answer: {error}") from None

    @staticmethod
    def _checked(answer: requests.Response) -> requests.Response:
        if not answer.ok:
            raise DeploymentError(f"it answers {answer.status_code}: {answer.text[:200]}")
        return answer
