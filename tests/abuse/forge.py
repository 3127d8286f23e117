"""Tokens and cookies: good ones, and every way to make bad ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from emulator.identity import load, new_key
from tests.abuse.target import AUDIENCE, ISSUER, PEOPLES_AUDIENCE

ANN = "ann@example.com"  # may enter, by the default answers
COOKIE = "__Host-mlflow"
HOURS = 3600


class Forge:
    """Makes tokens with the provider's key and with others, and cookies with the service's secret."""

    def __init__(self, key: str, key_id: str, cookie_secret: str) -> None:
        """Know the secrets that an attacker would like to know.

        Args:
            key: the provider's, in PEM.
            key_id: its name in the provider's key set.
            cookie_secret: of the proxy's configuration.
        """
        self._key, self.key_id, self.cookie_secret = key, key_id, cookie_secret
        self.other_key = new_key()
        public = load(key).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public_pem = public.public_bytes(serialization.Encoding.PEM, form)
        self.public_der = public.public_bytes(serialization.Encoding.DER, form)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return a good token's claims with some changed; None takes one out."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "azp": "1",
            "sub": "108",
            "iat": now,
            "exp": now + HOURS,
            "email": ANN,
            "email_verified": True,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, header: dict[str, Any] | None = None, key: str = "", **changed: Any) -> str:
        """Return a token signed RS256.

        Args:
            header: fields of its header beside kid.
            key: another one than the provider's.
            changed: claims, as claims() takes them.
        """
        fields = {"kid": self.key_id, **(header or {})}
        return jwt.encode(self.claims(**changed), key or self._key, "RS256", headers=fields)

    def persons_token(self, **changed: Any) -> str:
        """Return a token as a person has it: of gcloud, or of the local provider."""
        return self.token(**{"aud": PEOPLES_AUDIENCE, **changed})

    def by_hand(self, header: dict[str, Any], signature: bytes | None = None, **changed: Any) -> str:
        """Return a token with any header, and a signature of one's own; a good one when None."""
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, self.claims(**changed)))
        if signature is None:
            algorithm = jwt.get_algorithm_by_name("RS256")
            signature = algorithm.sign(signed, algorithm.prepare_key(self._key))
        return b".".join((signed, _base64(signature))).decode()

    def hmac_token(self, algorithm: str, key: bytes) -> str:
        """Return a token signed with the provider's public key as if that were a shared secret."""
        header = _base64(json.dumps({"alg": algorithm, "typ": "JWT", "kid": self.key_id}).encode())
        signed = header + b"." + _base64(json.dumps(self.claims()).encode())
        digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
        return (signed + b"." + _base64(hmac.digest(key, signed, digest))).decode()

    def cookie(self, session: str, *, name: str = COOKIE, age: float = 0, secret: str = "") -> str:
        """Return a session's cookie signed anew, as pkg/encryption of OAuth2-Proxy does.

        Args:
            session: a good cookie.
            name: of the cookie that it is to be.
            age: how long ago it was set, in seconds.
            secret: another one than the service's.
        """
        return self.signed(session.split("|")[0], name=name, age=age, secret=secret)

    def signed(self, payload: str, *, name: str = COOKIE, age: float = 0, secret: str = "") -> str:
        """Return a cookie with any payload, signed."""
        when = str(int(time.time() - age))
        key = (secret or self.cookie_secret).encode()
        signature = hmac.digest(key, f"{name}{payload}{when}".encode(), hashlib.sha256)
        return f"{payload}|{when}|{base64.urlsafe_b64encode(signature).decode()}"


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
