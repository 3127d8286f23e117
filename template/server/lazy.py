"""What a start leaves until it is needed: MLflow's own imports (PEP 810), and Werkzeug's builders of URLs.

Alembic, graphene, google-cloud-storage and aiohttp then load when a request first needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any


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
    """Let both wait, in this process. Call it before MLflow is imported."""
    sys.set_lazy_imports_filter(is_lazy)  # type: ignore[attr-defined]  # Python 3.15
    sys.set_lazy_imports("all")  # type: ignore[attr-defined]
    _defer_url_builders()


def _defer_url_builders() -> None:
    """Have Werkzeug compile what builds a rule's URL when that is first called.

    It compiles two functions for each of MLflow's 400 rules, a fifteenth of a start; a request matches a
    rule, and hardly ever builds a URL.
    """
    from werkzeug.routing.rules import Rule

    compiled: Callable[..., Callable[..., Any]] = Rule._compile_builder

    def deferred(self: Rule, append_unknown: bool = True) -> Callable[..., Any]:
        @cache
        def builder() -> Callable[..., Any]:
            return compiled(self, append_unknown)

        def build(rule: Rule, /, **values: Any) -> Any:
            return builder()(rule, **values)

        return build

    Rule._compile_builder = deferred
