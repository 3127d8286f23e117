"""REGION-docker.pkg.dev: the registry's own protocol, which Docker pushes and pulls by.

https://distribution.github.io/distribution/spec/api/. The engine reaches it as 127.0.0.1:PORT, see
docker_socket.py. Layers go to and from the registry behind it directly.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from urllib.parse import quote

from emulator import registry
from emulator.cloud import Cloud
from emulator.errors import GoogleError, NotModelledError
from emulator.iam import ANONYMOUS
from emulator.pages import serves
from emulator.web import ConnectionDroppedError, Request, Response

PATH = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs|tags)/(?P<rest>.+)")
# By status; a refusal may name another of https://distribution.github.io/distribution/spec/api/#errors-2
CODES = {400: "NAME_INVALID", 401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}
OTHERS = ("MANIFEST_UNKNOWN", "DIGEST_INVALID")
# Access tokens, given by hand or by gcloud's credential helper.
USERS = ("oauth2accesstoken", "_dcgcloud_token")
NOBODYS = "anonymous"  # the token of whoever gives none


@serves(rf"127\.0\.0\.1|{registry.HOST}", "GET|HEAD|POST|PUT|PATCH|DELETE", r"/v2/.*")
def answer(cloud: Cloud, request: Request) -> Response:
    """Answer a call, and write it to the log; refusals have the form that Docker shows."""
    found = PATH.fullmatch(request.path)
    method = f"docker.{found['kind']}.{request.method.lower()}" if found else "docker.login"
    principal, message = ANONYMOUS, ""
    try:
        fault = cloud.faults.take(method)
        if fault and not fault.after:
            fault.strike()
        if request.path == "/v2/token":
            response = _token(cloud, request)
        else:
            principal = _principal(cloud, request)
            response = _answer(cloud, request, found, principal) if found else Response.json({})
        if fault and fault.after:
            fault.strike()
    except GoogleError as error:
        message = error.message
        code = error.status if error.status in OTHERS else CODES.get(error.code, "UNKNOWN")
        response = Response.json({"errors": [{"code": code, "message": message}]}, error.code)
        if error.code == 401:
            response.headers.append(("www-authenticate", _challenge(cloud, request)))
    except ConnectionDroppedError:
        cloud.log_call(method, principal, request, 0, "connection dropped")
        raise
    response.headers.append(("docker-distribution-api-version", "registry/2.0"))
    cloud.log_call(method, principal, request, response.status, message)
    return response


def _challenge(cloud: Cloud, request: Request) -> str:
    base = f"http://127.0.0.1:{cloud.port}" if request.host == "127.0.0.1" else f"https://{request.host}"
    return f'Bearer realm="{base}/v2/token",service="{request.host}"'


def _token(cloud: Cloud, request: Request) -> Response:
    """Return the access token that was given as a password, if it is one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not given:
        return Response.json({"token": NOBODYS})
    try:
        user, _, token = base64.b64decode(given).decode().partition(":")
    except (binascii.Error, ValueError):
        user, token = "", ""
    if scheme.lower() != "basic" or user not in USERS or not token:
        raise GoogleError(401, f"the emulator takes the users {' and '.join(USERS)} with an access token")
    with cloud.store.lock:
        cloud.identity.principal(token)
    return Response.json({"token": token, "expires_in": 3600})


def _principal(cloud: Cloud, request: Request) -> str:
    if request.bearer == NOBODYS:
        return ANONYMOUS
    if not request.bearer:
        raise GoogleError(401, "Unauthenticated request.")
    with cloud.store.lock:
        return cloud.identity.principal(request.bearer)


def _answer(cloud: Cloud, request: Request, found: re.Match[str], principal: str) -> Response:
    """Check what Google checks, then let the registry answer."""
    kind, rest, reads = found["kind"], found["rest"], request.method in ("GET", "HEAD")
    asked = _name(cloud, request, found["name"])
    with cloud.store.lock:
        _check(cloud, principal, registry.DOWNLOAD if reads else registry.UPLOAD, asked)
    if kind == "manifests":
        field = "digest" if re.fullmatch(registry.DIGEST, rest) else "tag"
        asked = dataclasses.replace(asked, **{field: rest})
        if reads:
            return _manifest(cloud, request, asked)
        if request.method == "PUT":
            return _put(cloud, request, asked)
    elif kind == "tags" and reads and rest == "list":
        package = cloud.store["packages"].get(asked.package, {"tags": {}})
        return Response.json({"name": found["name"], "tags": sorted(package["tags"])})
    elif kind == "blobs" and reads and request.method == "HEAD":
        return cloud.registry.send("HEAD", f"/blobs/{rest}")
    elif kind == "blobs" and reads:
        place = f"http://127.0.0.1:{cloud.registry.port}/v2/images/blobs/{rest}"
        return Response(307, b"", [("location", place)])
    elif kind == "blobs" and request.method == "POST" and rest == "uploads/":
        # Its Location is the registry's own, to which the layer then goes. Mounting is not offered.
        digest = request.query.get("digest", [""])[0]
        query = f"?digest={quote(digest)}" if digest else ""
        return cloud.registry.send("POST", f"/blobs/uploads/{query}", request.body, _kept(request))
    raise NotModelledError(f"{request.method} of a registry's {kind}")


def _name(cloud: Cloud, request: Request, name: str) -> registry.Name:
    """Return whose call it is about; the engine's have the host in the path."""
    if request.host == "127.0.0.1":
        name = name.removeprefix(f"{cloud.engine.name()}/")
    else:
        name = f"{request.host}/{name}"
    if not registry.NAME.fullmatch(name):
        form = "HOST-NAME/PROJECT-ID/REPOSITORY/IMAGE"
        raise GoogleError(400, f"Missing image name. Pushes should be of the form docker push {form}")
    return registry.parse(name)


def _check(cloud: Cloud, principal: str, permission: str, asked: registry.Name) -> None:
    cloud.require_enabled("artifactregistry.googleapis.com", asked.project)
    if not registry.allows(cloud, principal, permission, asked):
        nobody = "Unauthenticated request. Unauthenticated requests do not have permission"
        words = f'{nobody} "{permission}"' if principal == ANONYMOUS else f'Permission "{permission}" denied'
        raise GoogleError(403, f'{words} on resource "{asked.repository}" (or it may not exist)')
    if asked.repository not in cloud.store["repositories"]:
        raise GoogleError(404, f'Repository "{asked.id}" not found')


def _manifest(cloud: Cloud, request: Request, asked: registry.Name) -> Response:
    with cloud.store.lock:
        package = cloud.store["packages"].get(asked.package, {"tags": {}, "versions": {}})
        digest = asked.digest or package["tags"].get(asked.tag)
        if digest not in package["versions"]:
            wanted = asked.digest or asked.tag
            raise GoogleError(404, f"Failed to fetch {json.dumps(wanted)}", "MANIFEST_UNKNOWN")
    return cloud.registry.send(request.method, f"/manifests/{digest}", headers=_kept(request))


def _put(cloud: Cloud, request: Request, asked: registry.Name) -> Response:
    digest = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
    if asked.digest not in ("", digest):
        raise GoogleError(400, "the manifest does not have this digest", "DIGEST_INVALID")
    response = cloud.registry.send("PUT", f"/manifests/{digest}", request.body, _kept(request))
    if response.status == 201:
        with cloud.store.lock:
            registry.add(cloud, asked, request.body, request.headers.get("content-type", ""))
            cloud.store.save()
    return response


def _kept(request: Request) -> dict[str, str]:
    return {n: request.headers[n] for n in ("accept", "content-type") if n in request.headers}
