"""What a request costs in statements: each is a way to the database and back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from docker.models.containers import Container

LINE = re.compile(r"LOG:  statement: (.+)")
DEADLINE = 10.0  # seconds for Postgres to read its settings


@contextmanager
def heard(database: Container) -> Iterator[list[str]]:
    """Hand out a list; afterwards it holds the first lines of all statements that Postgres executed.

    BEGIN, COMMIT and the pool's own SELECT 1 are among them.

    Args:
        database: the local stack's.

    Raises:
        RuntimeError: Postgres does not take the setting.
    """
    begin = len(_log(database))
    _sql(database, "ALTER SYSTEM SET log_statement = 'all'")
    try:
        _reloaded(database, begin, '"log_statement" changed to "all"')
        begin = len(_log(database))
        found: list[str] = []
        yield found
        found += LINE.findall(_log(database)[begin:])
    finally:
        begin = len(_log(database))
        _sql(database, "ALTER SYSTEM RESET log_statement")
        _reloaded(database, begin, '"log_statement" removed')


def _reloaded(database: Container, begin: int, words: str) -> None:
    _sql(database, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + DEADLINE
    while words not in _log(database)[begin:]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Postgres does not say {words}:\n{_log(database)[begin:]}")
        time.sleep(0.05)


def _log(database: Container) -> str:
    return str(database.logs().decode())


def _sql(database: Container, statement: str) -> None:
    code, output = database.exec_run(["psql", "-U", "mlflow", "-d", "mlflow", "-c", statement])
    if code:
        raise RuntimeError(output.decode())
