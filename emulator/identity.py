"""Who is who: access tokens, refresh tokens, keys, and identity tokens signed as Google signs them."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from emulator.errors import GoogleError
from emulator.iam import ANONYMOUS
from emulator.store import Store
from emulator.web import Json

ISSUER = "https://accounts.google.com"
LIFETIME = 3600
# gcloud's own OAuth client, public: `gcloud auth print-identity-token` names it as the audience.
GCLOUD_CLIENT_ID = "32555940559.apps.googleusercontent.com"


def load(private: str) -> rsa.RSAPrivateKey:
    """Return the RSA key that a PEM text holds.

    Raises:
        TypeError: it holds another kind of key.
    """
    key = serialization.load_pem_private_key(private.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"not an RSA key: {key!r}")
    return key


def new_key() -> str:
    """Return a new RSA key in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


class Identity:
    """Tokens and keys, in the store: a token outlives a restart."""

    def __init__(self, store: Store) -> None:
        """Load the signing key, or make it."""
        self._store = store
        self.lifetime = LIFETIME  # seconds that identity tokens are good for from now on
        if "signing" not in store["keys"]:
            store["keys"]["signing"] = new_key()
        self.key = load(store["keys"]["signing"])
        self.key_id = hashlib.sha256(store["keys"]["signing"].encode()).hexdigest()[:40]

    def access_token(self, principal: str) -> str:
        """Return a new access token of a principal, such as `user:ann@example.com`."""
        token = f"ya29.{secrets.token_urlsafe(48)}"
        self._store["tokens"][_hash(token)] = {"principal": principal, "expires": time.time() + LIFETIME}
        return token

    def principal(self, token: str) -> str:
        """Return whose access token this is; ANONYMOUS for none.

        Raises:
            GoogleError: it is unknown or has expired.
        """
        if not token:
            return ANONYMOUS
        if token.count(".") == 2:
            return f"serviceAccount:{self.signed_by_account(token)['iss']}"
        known = self._store["tokens"].get(_hash(token))
        if not known or known["expires"] < time.time():
            raise GoogleError(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
                "or other valid authentication credential.",
            )
        return str(known["principal"])

    def signed_by_account(self, token: str) -> Json:
        """Return the claims of a token that a service account signed with its own key.

        Raises:
            GoogleError: no key of that account made it, or it has expired.
        """
        try:
            key = self._store["account_keys"].get(jwt.get_unverified_header(token).get("kid", ""), {})
            options: Any = {"verify_aud": False}
            claims: Json = jwt.decode(token, key.get("public", ""), ["RS256"], options=options)
        except (jwt.InvalidTokenError, ValueError) as error:
            raise GoogleError(401, f"Invalid JWT: {error}") from None
        if claims.get("iss") != key["email"]:
            raise GoogleError(401, "Invalid JWT: the key is not the issuer's")
        return claims

    def refresh_token(self, email: str, client: str = GCLOUD_CLIENT_ID) -> str:
        """Return a new refresh token of a user, for an OAuth client."""
        token = f"1//{secrets.token_urlsafe(32)}"
        self._store["refresh_tokens"][_hash(token)] = {"email": email, "client": client}
        return token

    def refreshed(self, token: str, client: str) -> str | None:
        """Return the user of a client's refresh token; None when there is none such."""
        found = self._store["refresh_tokens"].get(_hash(token), {})
        return str(found["email"]) if found.get("client") == client else None

    def authorized_user(self, email: str) -> Json:
        """Return a user's credentials as `gcloud auth login` would have stored them."""
        return {
            "type": "authorized_user",
            "client_id": GCLOUD_CLIENT_ID,
            "client_secret": "gcloud-has-no-secret",
            "refresh_token": self.refresh_token(email),
        }

    def id_token(self, email: str, audience: str, *, with_email: bool = True, **claims: Any) -> str:
        """Return an identity token for an address.

        Args:
            email: of a user or a service account.
            audience: whom it is for.
            with_email: with the address in it; a service account's token has it on demand only.
            claims: further ones, such as nonce.
        """
        issued = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": audience,
            "azp": audience,
            "sub": subject(email),
            "iat": issued,
            "exp": issued + self.lifetime,
            **claims,
        }
        if with_email:
            payload |= {"email": email, "email_verified": True}
        return jwt.encode(payload, self._store["keys"]["signing"], "RS256", headers={"kid": self.key_id})

    def verified(self, token: str, audiences: list[str] | None = None) -> Json:
        """Return an identity token's claims.

        Raises:
            GoogleError: signature, issuer, audience or time is wrong.
        """
        options: Any = {"verify_aud": audiences is not None}
        try:
            return jwt.decode(
                token, self.key.public_key(), ["RS256"], audience=audiences, issuer=ISSUER, options=options
            )
        except jwt.InvalidTokenError as error:
            raise GoogleError(401, f"Invalid Value: {error}") from None

    def key_set(self) -> Json:
        """Return the public key as a JSON Web Key Set."""
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**key, "kid": self.key_id, "use": "sig", "alg": "RS256"}]}


def subject(email: str) -> str:
    """Return the account's number, always the same 21 digits for an address."""
    return "1" + str(int(hashlib.sha256(email.encode()).hexdigest(), 16))[:20]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
