"""Objects in buckets: access control in here, the objects themselves in fake-gcs-server."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote

from emulator.cloud import Cloud
from emulator.engine import address, wait_until
from emulator.errors import GoogleError, NotModelledError
from emulator.web import HOP, ConnectionDroppedError, Request, Response, relay

IMAGE = "fsouza/fake-gcs-server:1.56.1"
PORT = 4443
# The JSON API's objects, uploads and downloads, and the XML API's.
PATH = r"/(upload|download|resumable)/.+|/storage/v1/b/[^/]+/o(/.*)?|/(?!storage/|batch/)[^/]+/.+"
BUCKET = re.compile(r"/(?:(?:upload|download|resumable)/)?(?:resumable/)?storage/v1/b/([^/]+)/o(?:/(.*))?")


def _server(cloud: Cloud) -> str:
    """Have fake-gcs-server running, and return its address."""
    name = cloud.engine.name("objects")
    container = cloud.engine.find(name)
    if container is None or container.status != "running":
        if cloud.engine.image(IMAGE) is None:
            raise GoogleError(400, f"the emulator needs the image {IMAGE}, which is not here")
        container = cloud.engine.create(
            IMAGE,
            name,
            command=["-scheme", "http", "-host", "0.0.0.0", "-port", str(PORT), "-log-level", "warn"]  # noqa: S104
            + ["-external-url", "https://storage.googleapis.com", "-public-host", "storage.googleapis.com"]
            + ["-filesystem-root", "/storage"],
            volumes={cloud.engine.volume(name): {"bind": "/storage"}},
        )
        container.start()
        place = address(container)

        def ready() -> bool:
            try:
                return _send(place, "GET", "/storage/v1/b").status == 200
            except OSError:
                return False

        wait_until(ready, IMAGE)
    return address(container)


def _send(
    place: str, verb: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Response:
    return relay(place, PORT, verb, target, body, headers)


def any_in(cloud: Cloud, bucket: str) -> bool:
    """Say whether there is an object in a bucket."""
    if cloud.engine.find(cloud.engine.name("objects")) is None:
        return False
    answer = _send(_server(cloud), "GET", f"/storage/v1/b/{bucket}/o?maxResults=1")
    return isinstance(answer.body, bytes) and bool(json.loads(answer.body).get("items"))


def read(cloud: Cloud, bucket: str, name: str) -> bytes:
    """Return an object's content.

    Raises:
        GoogleError: there is none.
    """
    answer = _send(_server(cloud), "GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")
    if answer.status != 200 or not isinstance(answer.body, bytes):
        raise GoogleError(404, f"No such object: {bucket}/{name}")
    return answer.body


def write(cloud: Cloud, bucket: str, name: str, content: bytes) -> None:
    """Make an object's content this."""
    place = _server(cloud)
    _made(place, bucket)
    target = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
    _send(place, "POST", target, content, {"content-type": "text/plain"})


def _made(place: str, bucket: str) -> bool:
    """Make a bucket behind the scenes; say whether it was missing there."""
    if _send(place, "GET", f"/storage/v1/b/{bucket}").status != 404:
        return False
    _send(place, "POST", "/storage/v1/b", json.dumps({"name": bucket}).encode())
    return True


def forget(cloud: Cloud, bucket: str) -> None:
    """Delete an empty bucket behind the scenes, too."""
    if cloud.engine.find(cloud.engine.name("objects")):
        _send(_server(cloud), "DELETE", f"/storage/v1/b/{bucket}")


def answer(cloud: Cloud, request: Request) -> Response:
    """Check that the caller may, then let fake-gcs-server answer."""
    found = BUCKET.fullmatch(request.path)
    bucket = unquote(found[1]) if found else unquote(request.path.split("/")[1])
    method, permission = _method(request, bool(found and found[2]))
    principal, message = "", ""
    try:
        if "X-Goog-Signature" in request.query:
            raise NotModelledError("signed URLs")
        fault = cloud.faults.take(method)
        if fault and not fault.after:
            fault.strike()
        principal = cloud.identity.principal(request.bearer)
        with cloud.store.lock:
            if bucket not in cloud.store["buckets"]:
                raise GoogleError(404, f"The specified bucket does not exist: {bucket}")
            cloud.require(principal, permission, f"b/{bucket}")
        response = _forward(cloud, request, bucket)
        if fault and fault.after:
            fault.strike()
    except GoogleError as error:
        response, message = error.response(), error.message
    except ConnectionDroppedError:
        cloud.log_call(method, principal, request, 0, "connection dropped")
        raise
    cloud.log_call(method, principal, request, response.status, message)
    return response


def _method(request: Request, one: bool) -> tuple[str, str]:
    """Return a request's method id, as in the discovery document, and the permission that it needs."""
    if request.path.startswith("/upload/") or request.path.startswith("/resumable/"):
        return "storage.objects.insert", "storage.objects.create"
    if request.path.startswith("/storage/v1/") and not one:
        return "storage.objects.list", "storage.objects.list"
    if re.search(r"/o/.+/(rewriteTo|copyTo|compose)", request.path) or request.method == "POST":
        return "storage.objects.rewrite", "storage.objects.create"
    return {
        "GET": ("storage.objects.get", "storage.objects.get"),
        "HEAD": ("storage.objects.get", "storage.objects.get"),
        "PUT": ("storage.objects.insert", "storage.objects.create"),
        "PATCH": ("storage.objects.patch", "storage.objects.update"),
        "DELETE": ("storage.objects.delete", "storage.objects.delete"),
    }[request.method]


def _forward(cloud: Cloud, request: Request, bucket: str) -> Response:
    place = _server(cloud)
    headers = {name: value for name, value in request.headers.items() if name not in HOP}
    # apitools quotes the boundary with single quotes, which no MIME parser takes
    headers["content-type"] = re.sub(r"boundary='([^']*)'", r'boundary="\1"', headers.get("content-type", ""))
    if not headers["content-type"]:
        del headers["content-type"]
    target = request.target.replace("/download/storage/", "/storage/", 1)
    response = _send(place, request.method, target, request.body, headers)
    if response.status == 404 and _made(place, bucket):
        response = _send(place, request.method, target, request.body, headers)
    if request.method == "DELETE" and response.status == 200:
        return Response(204)  # as Google has it; gcloud breaks at fake-gcs-server's 200 with `null`
    return response
