"""An identity token for a test user of the local stack, by the flow that a browser goes through."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import requests

from deployment.errors import DeploymentError


def local_token(issuer: str, client_id: str, user: str) -> str:
    """Sign `user` in at the local OpenID provider and return the identity token.

    Raises:
        DeploymentError: the provider does not answer; the stack is not up.
    """
    redirect = "http://localhost/callback"
    query = {
        "client_id": client_id,
        "redirect_uri": redirect,
        "response_type": "code",
        "scope": "openid email",
    }
    try:
        page = requests.post(
            f"{issuer}/oauth2/authorize",
            params=query,
            data={"sub": user},
            allow_redirects=False,
            timeout=10,
        )
        page.raise_for_status()
        code = parse_qs(urlsplit(page.headers["Location"]).query)["code"][0]
        answer = requests.post(
            f"{issuer}/oauth2/token",
            data={"grant_type": "authorization_code", "code": code, "redirect_uri": redirect},
            auth=(client_id, "local"),
            timeout=10,
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        raise DeploymentError(
            f"the local sign-in at {issuer} does not answer: `invoke local-up` starts it ({error})"
        ) from None
    return str(answer.json()["id_token"])
