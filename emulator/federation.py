"""Workload Identity Federation: what a token from elsewhere has to be, and who its bearer then is."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import jwt

from emulator.errors import NotModelledError
from emulator.pages import page
from emulator.web import Json, Request

if TYPE_CHECKING:
    from emulator.cloud import Cloud

IAM = "//iam.googleapis.com/"
LONGEST_SUBJECT = 127  # bytes
LONGEST_LIFE = 48 * 3600  # seconds from `iat` to `exp`
# The subset of the Common Expression Language that is modelled.
CLAIM = re.compile(r"assertion\.([A-Za-z_]\w*)")
TERM = re.compile(rf"""{CLAIM.pattern}\s*==\s*(?:'([^'\\]*)'|"([^"\\]*)")""")
ATTRIBUTE = re.compile(r"google\.subject|attribute\.[a-z0-9_]{1,100}")


class FederationError(Exception):
    """A token is not exchanged. `error` is the code of RFC 6749, section 5.2."""

    def __init__(self, error: str, message: str) -> None:
        """Refuse with a code and a sentence."""
        super().__init__(message)
        self.error = error


def condition(text: str) -> list[tuple[str, str]]:
    """Read an attribute condition: the claims, and the value that each must have.

    Raises:
        NotModelledError: it is more than `assertion.CLAIM == 'VALUE'`, joined by `&&`.
    """
    found = [TERM.fullmatch(term.strip()) for term in text.split("&&")] if text.strip() else []
    terms = [(match[1], match[2] or match[3] or "") for match in found if match]
    if len(terms) != len(found):
        raise NotModelledError(f"the attribute condition {text!r}: assertion.CLAIM == 'VALUE', &&")
    return terms


def mapping(given: dict[str, str]) -> dict[str, str]:
    """Read an attribute mapping: the attributes, and the claim that each is.

    Raises:
        NotModelledError: an attribute is another than google.subject and attribute.NAME, or an expression
            is more than `assertion.CLAIM`.
    """
    claims = {name: CLAIM.fullmatch(expression.strip()) for name, expression in given.items()}
    for name, claim in claims.items():
        if not ATTRIBUTE.fullmatch(name) or not claim:
            raise NotModelledError(f"the attribute mapping {name}={given[name]}")
    return {name: claim[1] for name, claim in claims.items() if claim}


def exchange(cloud: Cloud, audience: str, token: str) -> str:
    """Return whom a provider makes of a token's bearer: the principal, then the sets that it is in.

    Args:
        cloud: has the pools and providers, and the issuers' pages.
        audience: the provider's full resource name, with the project's number.
        token: a JWT.

    Raises:
        FederationError: there is no such provider, or it does not take the token.
    """
    known = {f"{IAM}{provider['name']}": provider for provider in cloud.store["pool_providers"].values()}
    provider = known.get(audience, {"disabled": True})
    pool = audience.removeprefix(IAM).partition("/providers/")[0]
    pools = {found["name"]: found for found in cloud.store["pools"].values()}
    if provider.get("disabled") or pools[pool].get("disabled"):
        raise FederationError(
            "invalid_target",
            'The target service indicated by the "audience" parameters is invalid. This might either be '
            "because the pool or provider is disabled or deleted or because it doesn't exist.",
        )
    claims = _verified(cloud, provider, token)
    for claim, value in condition(provider.get("attributeCondition", "")):
        if claims.get(claim) != value:
            message = "The given credential is rejected by the attribute condition."
            raise FederationError("unauthorized_client", message)
    attributes = {name: claims.get(claim) for name, claim in mapping(provider["attributeMapping"]).items()}
    return _principal(pool, attributes)


def _principal(pool: str, attributes: dict[str, Any]) -> str:
    for name, value in attributes.items():
        if not isinstance(value, str) or not value or re.search(r"\s", value):
            raise FederationError("invalid_grant", f"The mapped attribute {name} is no string: {value!r}.")
    subject = attributes.pop("google.subject")
    if len(subject.encode()) > LONGEST_SUBJECT:
        message = f"The size of mapped attribute google.subject exceeds the {LONGEST_SUBJECT} bytes limit."
        raise FederationError("invalid_grant", message)
    sets = [f"principalSet:{IAM}{pool}/{name}/{value}" for name, value in sorted(attributes.items())]
    return " ".join([f"principal:{IAM}{pool}/subject/{subject}", f"principalSet:{IAM}{pool}/*", *sets])


def _verified(cloud: Cloud, provider: Json, token: str) -> Json:
    """Return a token's claims: signed by the provider's issuer, for this provider, not expired."""
    issuer = provider["oidc"]["issuerUri"]
    audiences = provider["oidc"].get("allowedAudiences") or [
        f"{scheme}{IAM}{provider['name']}" for scheme in ("", "https:")
    ]
    try:
        keys = jwt.PyJWKSet.from_dict(_published(cloud, provider, issuer))
        key = keys[jwt.get_unverified_header(token).get("kid", "")]
        required: Any = {"require": ["iss", "sub", "aud", "iat", "exp"]}
        claims: Json = jwt.decode(
            token, key.key, ["RS256"], audience=audiences, issuer=issuer, options=required
        )
    except jwt.InvalidAudienceError:
        given = jwt.decode(token, options={"verify_signature": False}).get("aud")
        message = f"The audience in ID Token [{given}] does not match the expected audience {audiences[-1]}."
        raise FederationError("invalid_grant", message) from None
    except jwt.ExpiredSignatureError:
        issued = jwt.decode(token, options={"verify_signature": False}).get("iat")
        raise FederationError("invalid_grant", f"ID Token issued at {issued} is stale to sign-in.") from None
    except (jwt.PyJWTError, KeyError) as error:
        raise FederationError("invalid_grant", f"Invalid ID Token: {error}") from None
    if claims["exp"] - claims["iat"] >= LONGEST_LIFE or claims["iat"] > time.time():
        raise FederationError("invalid_grant", "Invalid ID Token: its times are out of bounds.")
    return claims


def _published(cloud: Cloud, provider: Json, issuer: str) -> Json:
    """Return the keys that an issuer publishes, or those that the provider itself has."""
    if provider["oidc"].get("jwksJson"):
        return dict(json.loads(provider["oidc"]["jwksJson"]))
    configuration = _get(cloud, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    return _get(cloud, configuration["jwks_uri"])


def _get(cloud: Cloud, url: str) -> Json:
    host, _, path = url.removeprefix("https://").partition("/")
    path = f"/{path}"
    request = Request("GET", host, path, {}, {}, b"", "127.0.0.1", path)
    found = page(request)
    if found is None:
        raise FederationError("invalid_grant", f"Error connecting to the given credential's issuer: {url}")
    body = found(cloud, request).body
    return dict(json.loads(body if isinstance(body, bytes) else b"".join(body)))
