"""How many requests at once use the database: one fewer than a process has connections."""

from __future__ import annotations

from collections.abc import Mapping


def database_threads(environment: Mapping[str, str]) -> int:
    """Return how many requests may be worked on at once.

    MLflow's log-batch holds one connection while it asks for a second. As many of them as there are
    connections would each wait for another's, until the pool gives up after 30 s.
    """
    pool = environment.get("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE") or 5  # SQLAlchemy's own
    more = environment.get("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW") or 10
    return max(1, int(pool) + int(more) - 1)
