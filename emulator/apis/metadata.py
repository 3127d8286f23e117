"""http://metadata.google.internal: what an instance learns of itself, and tokens of its service account."""

from __future__ import annotations

from emulator.cloud import Cloud
from emulator.identity import LIFETIME
from emulator.pages import serves
from emulator.web import Request, Response

ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"


@serves(r"\d+\.\d+\.\d+\.\d+", "GET", r"/(computeMetadata/.*)?")
def metadata(cloud: Cloud, request: Request) -> Response:
    """Answer an instance, which is known by its address."""
    response = _answer(cloud, request)
    response.headers.append(("metadata-flavor", "Google"))
    return response


def _answer(cloud: Cloud, request: Request) -> Response:
    email = cloud.run.launcher.accounts.get(request.peer)
    if email is None:
        return Response.text("only instances have metadata\n", 403)
    path = request.path.rstrip("/")
    if path == "":
        return Response.text("computeMetadata/\n")
    if request.headers.get("metadata-flavor") != "Google":
        return Response.text("Missing required header: Metadata-Flavor\n", 403)
    with cloud.store.lock:
        project = cloud.store["service_accounts"][email]["projectId"]
        aliases = {ACCOUNT: ACCOUNT, ACCOUNT.replace("default", email): ACCOUNT}
        for alias, real in aliases.items():
            if path == alias or path.startswith(f"{alias}/"):
                path = real + path[len(alias) :]
        query = request.form()
        if path == f"{ACCOUNT}/token":
            token = cloud.identity.access_token(f"serviceAccount:{email}")
            body = {"access_token": token, "expires_in": LIFETIME - 1, "token_type": "Bearer"}
            return Response.json(body)
        if path == f"{ACCOUNT}/identity":
            full = query.get("format") == "full"
            return Response.text(cloud.identity.id_token(email, query["audience"], with_email=full))
        if path == ACCOUNT and query.get("recursive") == "true":
            return Response.json({"aliases": ["default"], "email": email, "scopes": _scopes()})
        texts = {
            f"{ACCOUNT}/email": email,
            f"{ACCOUNT}/scopes": "\n".join(_scopes()),
            "/computeMetadata/v1/project/project-id": project,
            "/computeMetadata/v1/project/numeric-project-id": cloud.number(project),
            "/computeMetadata/v1/universe/universe-domain": "googleapis.com",
        }
    return Response.text(texts[path]) if path in texts else Response.text("not found\n", 404)


def _scopes() -> list[str]:
    return ["https://www.googleapis.com/auth/cloud-platform"]
