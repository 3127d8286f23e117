"""Make the imports of MLflow's own modules lazy (PEP 810): a start imports what it needs, no more.

Alembic, graphene, google-cloud-storage and aiohttp then load when a request first needs them.
"""

from __future__ import annotations

import sys


def is_lazy(importer: str, name: str, fromlist: tuple[str, ...] | None) -> bool:
    """Say whether `import name` in the module `importer` may wait until its first use.

    Only MLflow's own modules: SQLAlchemy registers its events by importing. Never protobuf, whose
    generated modules register their descriptors as a side effect of being imported.
    """
    if not (importer == "mlflow" or importer.startswith("mlflow.")):
        return False
    return "protobuf" not in name and not any(
        part.endswith("_pb2") for part in (*name.split("."), *(fromlist or ()))
    )


def install() -> None:
    """Switch lazy imports on for this process. Call it before MLflow is imported."""
    sys.set_lazy_imports_filter(is_lazy)  # type: ignore[attr-defined]  # Python 3.15
    sys.set_lazy_imports("all")  # type: ignore[attr-defined]
