"""What stands between the proxy and MLflow's app."""

import asyncio
from typing import Any

import pytest

from server import closed
from server.threads import database_threads

HEADERS = [
    (b"host", b"a.test"),
    (b"authorization", b"Basic x"),
    (b"cookie", b"__Host-mlflow=x"),
    (b"x-forwarded-email", b"ann@example.com"),
]


def asked(path: str, kind: str = "http") -> tuple[list[Any], list[Any]]:
    """Return what the app behind saw, and what was sent."""
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": HEADERS}
    asyncio.run(closed.guarded(app)(scope, None, send))
    return seen, sent


def test_the_app_sees_neither_token_nor_cookie() -> None:
    (scope,), _ = asked("/api/2.0/mlflow/runs/search")
    assert scope["headers"] == [HEADERS[0], HEADERS[3]]
    assert len(HEADERS) == 4  # what the server keeps is as it was


@pytest.mark.parametrize("path", ["", "/message", "/config", "/sessions/1/stream", "/../assistant", "x"])
def test_the_assistant_is_closed(path: str) -> None:
    seen, sent = asked(f"/ajax-api/3.0/mlflow/assistant{path}")
    assert seen == []
    assert sent[0]["status"] == 403


def test_a_start_and_an_end_pass() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope == {"type": "lifespan"}

    asyncio.run(closed.guarded(app)({"type": "lifespan"}, None, None))


@pytest.mark.parametrize(
    ("size", "more", "threads"), [("4", "1", 4), ("9", "1", 9), ("1", "1", 1), ("1", "0", 1)]
)
def test_a_connection_is_left_for_who_needs_two(size: str, more: str, threads: int) -> None:
    environment = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": size, "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": more}
    assert database_threads(environment) == threads
