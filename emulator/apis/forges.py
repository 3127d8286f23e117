"""The forges whose pipelines Google Cloud is told to trust: their published keys, and jobs' tokens.

token.actions.githubusercontent.com is GitHub's issuer, gitlab.com is GitLab's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from typing import Any

import jwt

from emulator.cloud import Cloud
from emulator.errors import GoogleError
from emulator.identity import load, new_key
from emulator.pages import serves
from emulator.web import Json, Request, Response

GITHUB, GITLAB = "https://token.actions.githubusercontent.com", "https://gitlab.com"
# Where a job of GitHub Actions asks for its token: the host and the path differ from job to job.
REQUEST_HOST = "run-actions-1-azure-eastus.actions.githubusercontent.com"
KEYS = {GITHUB: f"{GITHUB}/.well-known/jwks", GITLAB: f"{GITLAB}/oauth/discovery/keys"}
LIFETIME = {GITHUB: 300, GITLAB: 3600}  # seconds; GitLab's is the job's time limit


def _private(cloud: Cloud, issuer: str) -> str:
    keys = cloud.store["forge_keys"]
    if issuer not in keys:
        keys[issuer] = new_key()
    return str(keys[issuer])


def _key_id(private: str) -> str:
    return hashlib.sha256(private.encode()).hexdigest()[:40]


def _issuer(request: Request) -> str:
    return f"https://{request.host}"


@serves(r"token\.actions\.githubusercontent\.com|gitlab\.com", "GET", "/.well-known/openid-configuration")
def configuration(cloud: Cloud, request: Request) -> Response:
    """What is needed of it to check a token."""
    issuer = _issuer(request)
    described = {
        "issuer": issuer,
        "jwks_uri": KEYS[issuer],
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
    if issuer == GITLAB:  # which signs people in, too: people.py
        described |= {
            "authorization_endpoint": f"{GITLAB}/oauth/authorize",
            "token_endpoint": f"{GITLAB}/oauth/token",
            "userinfo_endpoint": f"{GITLAB}/oauth/userinfo",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }
    return Response.json(described)


@serves(r"token\.actions\.githubusercontent\.com", "GET", "/.well-known/jwks")
@serves(r"gitlab\.com", "GET", "/oauth/discovery/keys")
def keys(cloud: Cloud, request: Request) -> Response:
    """The key that jobs' tokens are signed with, and at GitLab people's."""
    return Response.json(key_set(cloud, _issuer(request)))


def key_set(cloud: Cloud, issuer: str) -> Json:
    """Return an issuer's public key, as it publishes it."""
    with cloud.store.lock:
        private = _private(cloud, issuer)
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(load(private).public_key()))
    return {"keys": [{**key, "kid": _key_id(private), "use": "sig", "alg": "RS256"}]}


def sign(cloud: Cloud, issuer: str, claims: Json) -> str:
    """Return an issuer's token of these claims."""
    with cloud.store.lock:
        private = _private(cloud, issuer)
    return jwt.encode(claims, private, "RS256", headers={"kid": _key_id(private)})


def github_claims(claims: dict[str, Any]) -> Json:
    """Return what a token of GitHub Actions says, with these claims and what follows from them.

    https://docs.github.com/en/actions/reference/security/oidc
    """
    given = {"repository": "octo-org/octo-repo", "repository_id": "74", "ref": "refs/heads/main", **claims}
    owner = given["repository"].partition("/")[0]
    workflow = f"{given['repository']}/.github/workflows/checks.yml@{given['ref']}"
    return {
        "sub": f"repo:{given['repository']}:ref:{given['ref']}",
        "repository_owner": owner,
        "repository_owner_id": "65",
        "repository_visibility": "private",
        "ref_type": "branch",
        "ref_protected": "true",
        "event_name": "push",
        "actor": "octocat",
        "actor_id": "12",
        "sha": "0" * 40,
        "run_id": "1",
        "run_number": "1",
        "run_attempt": "1",
        "runner_environment": "github-hosted",
        "workflow": "checks",
        "workflow_ref": workflow,
        "job_workflow_ref": workflow,
        **given,
    }


def gitlab_claims(claims: dict[str, Any]) -> Json:
    """Return what a token of GitLab CI says, with these claims and what follows from them.

    https://docs.gitlab.com/ci/secrets/id_token_authentication
    """
    given = {"project_path": "my-group/my-project", "project_id": "20", "ref": "main", **claims}
    kind = given.get("ref_type", "branch")
    folder = "tags" if kind == "tag" else "heads"
    return {
        "sub": f"project_path:{given['project_path']}:ref_type:{kind}:ref:{given['ref']}",
        "namespace_id": "72",
        "namespace_path": given["project_path"].rpartition("/")[0],
        "ref_type": kind,
        "ref_path": f"refs/{folder}/{given['ref']}",
        "ref_protected": "true",
        "pipeline_source": "push",
        "pipeline_id": "574",
        "job_id": "302",
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.com",
        "runner_environment": "gitlab-hosted",
        "sha": "0" * 40,
        **given,
    }


def job_token(cloud: Cloud, issuer: str, audience: str, **claims: Any) -> str:
    """Return the token that a job would get.

    Args:
        cloud: has the forge's key.
        issuer: GITHUB or GITLAB.
        audience: whom it is for.
        claims: those that differ from a push to `main`; `iat` and `exp` may be given too.
    """
    said = github_claims(claims) if issuer == GITHUB else gitlab_claims(claims)
    issued = int(claims.get("iat", time.time()))
    payload = {
        "iss": issuer,
        "aud": audience,
        "iat": issued,
        "nbf": issued - 5,
        "exp": issued + LIFETIME[issuer],
        "jti": secrets.token_hex(16),
        **said,
    }
    return sign(cloud, issuer, payload)


def github_job(cloud: Cloud, **claims: Any) -> dict[str, str]:
    """Return the variables by which a job of GitHub Actions with `id-token: write` gets its tokens."""
    bearer = secrets.token_urlsafe(32)
    with cloud.store.lock:
        cloud.store["forge_jobs"][bearer] = claims
    return {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{REQUEST_HOST}/1/idtoken/1?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": bearer,
    }


@serves(REQUEST_HOST.replace(".", r"\."), "GET", r"/.+/idtoken/.+")
def request_token(cloud: Cloud, request: Request) -> Response:
    """Give a job of GitHub Actions its token, for the audience that it asks for."""
    claims = cloud.store["forge_jobs"].get(request.bearer)
    if claims is None:
        raise GoogleError(401, "the job's own token is missing or unknown")
    owner = github_claims(claims)["repository_owner"]
    audience = request.query.get("audience", [f"https://github.com/{owner}"])[-1]
    value = job_token(cloud, GITHUB, audience, **claims)
    return Response.json({"count": len(value), "value": value})
