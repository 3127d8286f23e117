"""The database's logins: made, and given new passwords while the service runs.

There are two, and the service uses one. Both act as the same role, so that what one makes is the
other's too. A password is only ever changed on the login that nobody uses.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit

from deployment.cloud.gcloud import Gcloud, private_file
from deployment.cloud.resources import DATABASE, ROLE, USERS, Resources
from deployment.cloud.secret import Secrets

Say = Callable[[str], None]


def connection_uri(resources: Resources, user: str, password: str) -> str:
    """Return BACKEND_STORE_URI for Cloud SQL's socket, percent-encoded."""
    options = quote(f"-c role={ROLE}", safe="")
    return (
        f"postgresql+psycopg2://{user}:{quote(password, safe='')}@/{DATABASE}"
        f"?host=/cloudsql/{resources.connection}&options={options}"
    )


def login_of(uri: str) -> tuple[str, str]:
    """Return the user and the password of a connection URI."""
    parts = urlsplit(uri)
    return unquote(parts.username or ""), unquote(parts.password or "")


def other(user: str) -> str:
    """Return the login that is not in use."""
    return USERS[1] if user == USERS[0] else USERS[0]


def password_argv(resources: Resources, user: str, flags: str, *, exists: bool) -> list[str]:
    """Return the command that gives a login its password, which the file of flags holds."""
    command = "set-password" if exists else "create"
    return ["sql", "users", command, user, f"--instance={resources.instance}", f"--flags-file={flags}"]


def users_argv(resources: Resources) -> list[str]:
    """Return the command that lists the instance's users."""
    return ["sql", "users", "list", f"--instance={resources.instance}", "--format=json"]


def first_login(gcloud: Gcloud, store: Secrets, say: Say) -> None:
    """Make the first login, with a password that only Secret Manager has.

    The password is in the secret before the user has it, so that an interruption loses neither.

    Raises:
        DeploymentError: gcloud refused.
    """
    uri = store.keep(
        store.resources.database_secret,
        lambda: connection_uri(store.resources, USERS[0], secrets.token_urlsafe(32)),
    )
    user, password = login_of(uri)
    if user in _users(gcloud, store.resources):
        say(f"user {user}: here")
        return
    _set(gcloud, store.resources, user, password, exists=False)
    say(f"user {user}: created")


def switch(gcloud: Gcloud, store: Secrets, say: Say) -> None:
    """Give the login that nobody uses a new password, and make it the secret's newest version.

    What runs goes on with the other login; what starts from now on takes this one.

    Raises:
        DeploymentError: gcloud refused.
    """
    name = store.resources.database_secret
    user = other(login_of(store.needed(name))[0])
    password = secrets.token_urlsafe(32)
    exists = user in _users(gcloud, store.resources)
    _set(gcloud, store.resources, user, password, exists=exists)
    say(f"user {user}: {'new password' if exists else 'created'}")
    store.write(name, connection_uri(store.resources, user, password))


def retire(gcloud: Gcloud, store: Secrets, say: Say) -> None:
    """Give the login that nobody uses any more a password that nobody knows.

    Raises:
        DeploymentError: gcloud refused.
    """
    user = other(login_of(store.needed(store.resources.database_secret))[0])
    _set(gcloud, store.resources, user, secrets.token_urlsafe(32), exists=True)
    say(f"user {user}: its old password is worth nothing now")


def _users(gcloud: Gcloud, resources: Resources) -> set[str]:
    return {user["name"] for user in json.loads(gcloud.run(users_argv(resources)) or "[]")}


def _set(gcloud: Gcloud, resources: Resources, user: str, password: str, *, exists: bool) -> None:
    with private_file(f"--password: {json.dumps(password)}\n") as flags:
        gcloud.run(password_argv(resources, user, str(flags), exists=exists))
