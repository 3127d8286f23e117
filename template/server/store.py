"""The database: initialised when empty, checked when not, never upgraded while serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Engine

# "mlflow" in ASCII. MLflow's own lock is a file in /tmp, which two instances do not share:
# https://github.com/mlflow/mlflow/issues/19299
ADVISORY_LOCK = 0x6D6C666C6F77
SCHEMA_FILE = Path(__file__).with_name("schema-revision")
TRIES = 7  # to connect, within 12 s; MLflow's own 10 last 100 s, in which nobody hears of it


class DatabaseError(Exception):
    """The database cannot be used. The message says why, or what to do."""


class SchemaError(DatabaseError):
    """The database's schema is not the one this MLflow needs."""


def open_stores(uri: str, artifact_root: str) -> None:
    """Open MLflow's stores on one shared connection pool; create the schema of an empty database.

    Raises:
        SchemaError: the schema is older or newer than this MLflow's.
        DatabaseError: it does not let one in.
    """
    from mlflow.server.handlers import initialize_backend_stores
    from mlflow.store.db import utils
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    engine = _connected(uri)
    # Each store would open a pool of its own; the budget of connections is for one a process.
    for store in (TrackingStore, RegistryStore):
        store._engine_map[uri] = engine
    with _locked(engine):
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        check_schema(engine)
        utils._verify_schema = check_schema  # MLflow's reads all its migrations, at each start
        initialize_backend_stores(uri, uri, artifact_root)


def migrate(uri: str) -> None:
    """Upgrade the schema to this MLflow's, as `mlflow db upgrade` does, one process at a time.

    Raises:
        SchemaError: the schema is newer than this MLflow's.
        DatabaseError: it does not let one in.
        sqlalchemy.exc.SQLAlchemyError: a migration failed.
    """
    from mlflow.store.db import utils

    engine = _connected(uri)
    with _locked(engine):
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        elif _position(engine) == "older":
            utils._upgrade_db(engine)
        check_schema(engine)


def _connected(uri: str) -> Engine:
    """Return MLflow's engine for a database that answers.

    Raises:
        DatabaseError: it does not, or does not let one in.
    """
    import sqlalchemy.exc
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = TRIES
    try:
        return _batching(utils.create_sqlalchemy_engine_with_retry(uri))
    except sqlalchemy.exc.OperationalError as error:
        raise DatabaseError(f"the database does not let one in: {error.orig}") from None


def _batching(engine: Engine) -> Engine:
    """Have many UPDATEs go to the database together, as create_engine's executemany_mode would.

    Else each metric of a batch that a run has already is a way to the database and back.
    https://docs.sqlalchemy.org/en/20/dialects/postgresql.html#psycopg2-fast-execution-helpers
    """
    from sqlalchemy.dialects.postgresql import psycopg2

    dialect: Any = engine.dialect
    dialect.executemany_mode = psycopg2.EXECUTEMANY_VALUES_PLUS_BATCH
    dialect.supports_sane_multi_rowcount = False  # as it says itself in this mode
    return engine


def check_schema(engine: Engine) -> None:
    """Compare the schema's revision with the one this MLflow needs.

    Raises:
        SchemaError: they differ.
    """
    position = _position(engine)
    if position == "older":
        raise SchemaError(
            "the database's schema is older than this MLflow's: upgrade it first, by running "
            "this image once with the command `python -m server migrate`"
        )
    if position == "newer":
        raise SchemaError(
            "the database's schema is newer than this MLflow's: a newer image has upgraded it; "
            "deploy an image with that MLflow or a later one"
        )


def newest_schema() -> str:
    """Return the schema's revision that this MLflow needs.

    The image's build has written it into a file. Without that, Alembic is asked, a fifteenth of a start.
    """
    if SCHEMA_FILE.exists():
        return SCHEMA_FILE.read_text().strip()
    return str(_scripts().get_current_head())


def _position(engine: Engine) -> str:
    """Return where the database's revision lies: "current", "older" or "newer"."""
    revision = _revision(engine)
    if revision == newest_schema():
        return "current"
    if revision is None:
        return "older"
    from alembic.util import CommandError

    try:
        _scripts().get_revision(revision)
    except CommandError:  # no such revision in this MLflow
        return "newer"
    return "older"


def _revision(engine: Engine) -> str | None:
    """Return the database's revision, or None where no MLflow that knows of revisions made it."""
    import sqlalchemy

    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        return found


def _scripts() -> ScriptDirectory:
    """Return MLflow's migrations."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    return ScriptDirectory.from_config(utils._get_alembic_config(""))


@contextmanager
def _locked(engine: Engine) -> Iterator[None]:
    """Hold a Postgres advisory lock, so that of all instances one at a time is inside."""
    import sqlalchemy

    # The lock is the session's and outlives the transaction. No AUTOCOMMIT: a connection of psycopg2's that
    # had it once sends a statement more for each transaction, for good.
    with engine.connect() as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(ADVISORY_LOCK)))
        connection.commit()
        try:
            yield
        finally:
            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_unlock(ADVISORY_LOCK)))
            connection.commit()
