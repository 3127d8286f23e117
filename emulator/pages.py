"""Handlers of what no discovery document describes: by host, verb and path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.web import Request, Response

if TYPE_CHECKING:
    from emulator.cloud import Cloud

Page = Callable[["Cloud", Request], Response]
PAGES: list[tuple[re.Pattern[str], str, re.Pattern[str], Page]] = []


def serves(host: str, verb: str, path: str) -> Callable[[Page], Page]:
    """Register a page.

    Args:
        host: a pattern of the whole name.
        verb: the HTTP method, or a pattern of several.
        path: a pattern of the whole path.
    """

    def register(handler: Page) -> Page:
        PAGES.append((re.compile(host), verb, re.compile(path), handler))
        return handler

    return register


def page(request: Request) -> Page | None:
    """Return the page that a request is for, if there is one."""
    for host, verb, path, handler in PAGES:
        if (
            host.fullmatch(request.host)
            and re.fullmatch(verb, request.method)
            and path.fullmatch(request.path)
        ):
            return handler
    return None
