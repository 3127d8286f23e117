"""http://127.0.0.1:PORT: the emulator's own control, for whoever runs it as a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps

from emulator.apis import forges
from emulator.cloud import Cloud
from emulator.errors import GoogleError
from emulator.pages import Page, serves
from emulator.web import Json, Request, Response

HOST = r"127\.0\.0\.1"


def _local(handler: Callable[[Cloud, Request], Json | list[Json]]) -> Page:
    """Refuse whoever is not on this machine: containers reach the same port."""

    @wraps(handler)
    def checked(cloud: Cloud, request: Request) -> Response:
        if request.peer != "127.0.0.1":
            raise GoogleError(403, "the control is for this machine only")
        with cloud.store.lock:
            answer = handler(cloud, request)
            if request.method != "GET":
                cloud.store.save()
        return Response.json(answer)

    return checked


@serves(HOST, "GET", "/calls")
@_local
def calls(cloud: Cloud, request: Request) -> list[Json]:
    """All API calls since the start, oldest first."""
    return list(cloud.calls)


@serves(HOST, "POST", "/faults")
@_local
def add_fault(cloud: Cloud, request: Request) -> Json:
    """Let calls fail: `method`, `status` (0 drops the connection), `times`, `after`."""
    body = json.loads(request.body)
    cloud.faults.add(body["method"], body["status"], body.get("times", 1), after=body.get("after", False))
    return {}


@serves(HOST, "DELETE", "/faults")
@_local
def clear_faults(cloud: Cloud, request: Request) -> Json:
    """Forget the faults that did not strike."""
    cloud.faults.clear()
    return {}


@serves(HOST, "POST", "/scale-to-zero")
@_local
def scale_to_zero(cloud: Cloud, request: Request) -> Json:
    """Stop every idle instance above the minimum, as Cloud Run would after a while."""
    cloud.run.scale_down(0)
    return {}


@serves(HOST, "POST", "/oauth-clients")
@_local
def add_client(cloud: Cloud, request: Request) -> Json:
    """Register an OAuth client: `client_id`, `client_secret`, `redirect_uris`."""
    body = json.loads(request.body)
    register_client(cloud, body["client_id"], body["client_secret"], body["redirect_uris"])
    return {}


def register_client(cloud: Cloud, client_id: str, client_secret: str, redirect_uris: list[str]) -> None:
    """Register an OAuth client, as one does in the console: Google has no API for it."""
    with cloud.store.lock:
        cloud.store["oauth_clients"][client_id] = {
            "client_secret": client_secret,
            "redirect_uris": redirect_uris,
        }


@serves(HOST, "POST", "/job-tokens")
@_local
def add_job_token(cloud: Cloud, request: Request) -> Json:
    """Return a token of a pipeline's job: `issuer`, `audience`, and the `claims` that matter."""
    body = json.loads(request.body)
    if body["issuer"] not in forges.KEYS:
        raise GoogleError(400, f"the emulator knows the issuers {', '.join(forges.KEYS)}")
    return {"token": forges.job_token(cloud, body["issuer"], body["audience"], **body.get("claims", {}))}


@serves(HOST, "POST", "/users")
@_local
def add_user(cloud: Cloud, request: Request) -> Json:
    """Return the credentials that `email` would have after `gcloud auth login`."""
    return cloud.identity.authorized_user(json.loads(request.body)["email"])
