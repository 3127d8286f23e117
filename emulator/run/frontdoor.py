"""SERVICE….run.app: from a request to an instance and back."""

from __future__ import annotations

import http.client
import random
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from emulator.errors import GoogleError
from emulator.iam import ANONYMOUS
from emulator.pages import serves
from emulator.run.container import StartError
from emulator.run.instance import Instance
from emulator.run.names import TAG, hosts
from emulator.run.workload import true
from emulator.web import CHUNK, Json, Request, Response

if TYPE_CHECKING:
    from emulator.cloud import Cloud

# https://cloud.google.com/run/quotas#request_limits, for HTTP/1
LIMIT = 32 * 1024**2
HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
PAGE = "<html><head><title>{title}</title></head><body><h1>Error: {title}</h1><h2>{text}</h2></body></html>\n"


@serves(r".+\.run\.app", ".*", ".*")
def answer(cloud: Cloud, request: Request) -> Response:
    """Answer a request to a service's URL."""
    begin = time.monotonic()
    found = _service(cloud, request.host)
    if found is None:
        return _error(404, "Page not found", "The requested URL was not found on this server.")
    key, service, tag = found
    try:
        target = _target(service, tag)
        if len(request.body) > LIMIT:
            response = _error(
                413, "Request Entity Too Large", "Your client issued a request that was too large."
            )
        elif "upgrade" in request.headers:
            response = _error(400, "Bad Request", "The emulator does not model WebSockets.")
        else:
            response = _allowed(cloud, key, service, request) or _serve(cloud, key, target, request)
    except GoogleError as error:
        target, response = "", _error(error.code, error.message, "The server could not serve the request.")
    _log(cloud, key, target, request, response, time.monotonic() - begin)
    return response


def _service(cloud: Cloud, host: str) -> tuple[str, Json, str] | None:
    """Return a host's service with its key, and the tag in the name."""
    tag, separator, rest = host.partition(TAG)
    tag, rest = (tag, rest) if separator else ("", host)
    with cloud.store.lock:
        for key, service in cloud.store["run_services"].items():
            project, region, name = key.split("/")
            if rest in hosts(name, cloud.number(project), region):
                return key, service, tag
    return None


def _target(service: Json, tag: str) -> str:
    """Choose the revision: the tag's, or by the percentages."""
    traffic = service["status"].get("traffic", [])
    if tag:
        traffic = [t for t in traffic if t.get("tag") == tag]
        if not traffic:
            raise GoogleError(404, "Page not found")
        return str(traffic[0]["revisionName"])
    weights = [t.get("percent", 0) for t in traffic]
    if not sum(weights):
        raise GoogleError(503 if not traffic else 404, "Service Unavailable")
    return str(random.choices(traffic, weights)[0]["revisionName"])  # noqa: S311


def _allowed(cloud: Cloud, key: str, service: Json, request: Request) -> Response | None:
    """Return the refusal for who may not invoke the service."""
    annotations = service["metadata"].get("annotations", {})
    if true(annotations.get("run.googleapis.com/invoker-iam-disabled", "false")):
        return None
    project, region, name = key.split("/")
    resource = f"projects/{project}/locations/{region}/services/{name}"
    with cloud.store.lock:
        if cloud.allows(ANONYMOUS, "run.routes.invoke", resource):
            return None
        audiences = [
            f"https://{host}" for host in (request.host, *hosts(name, cloud.number(project), region))
        ]
        try:
            claims = cloud.identity.verified(request.bearer, audiences)
        except GoogleError:
            if request.bearer:
                return _error(
                    401, "Unauthorized", "Your client does not have permission to the requested URL."
                )
            claims = {}
        email = claims.get("email", "")
        kind = "serviceAccount" if email.endswith(".gserviceaccount.com") else "user"
        if email and cloud.allows(f"{kind}:{email}", "run.routes.invoke", resource):
            return None
    return _error(
        403, "Forbidden", f"Your client does not have permission to get URL {request.path} from this server."
    )


def _serve(cloud: Cloud, key: str, revision: str, request: Request) -> Response:
    pool = cloud.run.pool(f"{key.rpartition('/')[0]}/{revision}")
    try:
        instance = pool.acquire()
    except StartError:
        return _error(503, "Service Unavailable", "The server could not start an instance; its log says why.")
    release = _Once(lambda: pool.release(instance))
    try:
        return _forward(instance, request, release)
    except TimeoutError:
        release()
        instance.log(
            "ERROR", "The request has been terminated because it has reached the maximum request timeout."
        )
        return _error(504, "Gateway Timeout", "upstream request timeout")
    except (OSError, http.client.HTTPException) as error:
        instance.ended.wait(1)  # if that is why, the next request is not to meet it again
        release()
        instance.log("ERROR", f"The request failed because the instance could not handle it: {error!r}")
        return _error(
            503, "Service Unavailable", "The request failed: the connection to the instance had an error."
        )


class _Once:
    """Calls something the first time only: a request ends once, however it ends."""

    def __init__(self, function: object) -> None:
        self._function = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if callable(function):
            function()


def _forward(instance: Instance, request: Request, release: _Once) -> Response:
    workload = instance.workload
    connection = http.client.HTTPConnection(instance.address, workload.port)
    connection.sock = instance.connect(workload.port, workload.timeout)
    connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in _headers(request):
        connection.putheader(name, value)
    connection.endheaders(request.body or None)
    upstream = connection.getresponse()
    headers = [(name, value) for name, value in upstream.getheaders() if name.lower() not in HOP]
    headers += [("server", "Google Frontend"), ("x-cloud-trace-context", _trace(request))]
    length = int(upstream.getheader("content-length") or 0)
    if length > LIMIT and request.method != "HEAD":
        connection.close()
        release()
        return _error(
            500, "Internal Server Error", "Response size was too large. Please consider reducing it."
        )
    if request.method == "HEAD" or upstream.status in (204, 304):
        connection.close()
        release()
        return Response(upstream.status, b"", headers)
    return Response(upstream.status, _pieces(upstream, connection, release), headers)


class _pieces(Iterator[bytes]):  # noqa: N801
    """The body as it comes. The request ends with it, or when nobody wants the rest."""

    def __init__(
        self, upstream: http.client.HTTPResponse, connection: http.client.HTTPConnection, release: _Once
    ) -> None:
        self._upstream, self._connection, self._release = upstream, connection, release

    def __next__(self) -> bytes:
        piece = self._upstream.read1(CHUNK)
        if piece:
            return piece
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the request."""
        self._connection.close()
        self._release()


def _headers(request: Request) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in request.raw if name not in HOP and name != "content-length"]
    names = {name for name, _ in kept}
    if request.body or "content-length" in request.headers:
        kept.append(("content-length", str(len(request.body))))
    before = [value for name, value in kept if name == "x-forwarded-for"]
    ours = {"x-forwarded-for": ", ".join([*before, request.peer]), "x-forwarded-proto": "https"}
    kept = [(name, value) for name, value in kept if name not in ours] + list(ours.items())
    if "x-cloud-trace-context" not in names:
        kept.append(("x-cloud-trace-context", _trace(request)))
    return kept


def _trace(request: Request) -> str:
    if "x-cloud-trace-context" not in request.headers:
        request.headers["x-cloud-trace-context"] = f"{secrets.token_hex(16)}/{secrets.randbits(63)};o=1"
    return request.headers["x-cloud-trace-context"]


def _error(status: int, title: str, text: str) -> Response:
    return Response.text(PAGE.format(title=title, text=text), status, "text/html")


def _log(cloud: Cloud, key: str, revision: str, request: Request, response: Response, seconds: float) -> None:
    project, region, name = key.split("/")
    labels = {"project_id": project, "location": region, "service_name": name}
    labels |= {"revision_name": revision, "configuration_name": name}
    cloud.logs.write(
        {
            "logName": f"projects/{project}/logs/run.googleapis.com%2Frequests",
            "severity": "ERROR"
            if response.status >= 500
            else "WARNING"
            if response.status >= 400
            else "INFO",
            "resource": {"type": "cloud_run_revision", "labels": labels},
            "httpRequest": {
                "requestMethod": request.method,
                "requestUrl": f"https://{request.host}{request.path}",
                "status": response.status,
                "userAgent": request.headers.get("user-agent", ""),
                "latency": f"{seconds:.6f}s",
            },
        }
    )
