"""The comparison of what an image holds with advisories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.audit import by_folder

INSTALLED = {
    "Go": {"golang.org/x/net": "v0.58.0"},
    "PyPI": {"mlflow": "3.17.2"},
    "Debian": {},
    "Python itself": {},
}
PROGRAM = b"golang.org/x/net/http2.Dial"


def affected(name: str, *events: dict[str, str], ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    ranges = [{"type": "SEMVER" if ecosystem == "Go" else "ECOSYSTEM", "events": list(events)}]
    return {"package": {"name": name, "ecosystem": ecosystem}, "ranges": ranges, **more}


ALWAYS = {"introduced": "0"}
NET = "golang.org/x/net"
DATE = "0.0.0-20200107190931-bf48bf16ab8d"


def imports(path: str) -> dict[str, Any]:
    return {"imports": [{"path": path}]}


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (affected("mlflow", ALWAYS), True),
        (affected("mlflow", ALWAYS, {"fixed": "3.17.3"}), True),
        (affected("mlflow", ALWAYS, {"fixed": "3.17.2"}), False),
        (affected("mlflow", ALWAYS, {"fixed": "2"}, {"introduced": "3.17"}), True),
        (affected("mlflow", ALWAYS, {"last_affected": "3.17.2"}), True),
        (affected("mlflow", ALWAYS, {"last_affected": "3.9"}), False),
        (affected("mlflow", {"introduced": "3.18rc1"}), False),
        ({**affected("mlflow"), "versions": ["3.17.2"]}, True),
        (affected("flask", ALWAYS), False),
        (affected("mlflow", ALWAYS, ecosystem="npm"), False),
        (affected(NET, ALWAYS, {"fixed": "0.60.0"}, ecosystem="Go"), True),
        (affected(NET, ALWAYS, {"fixed": DATE}, ecosystem="Go"), False),
        (affected(NET, ALWAYS, ecosystem="Go", ecosystem_specific=imports(f"{NET}/html")), False),
        (affected(NET, ALWAYS, ecosystem="Go", ecosystem_specific=imports(f"{NET}/http2")), True),
    ],
)
@pytest.mark.parametrize("withdrawn", ["", "2026-01-01T00:00:00Z"])
def test_what_is_found(entry: dict[str, Any], found: bool, withdrawn: str, tmp_path: Path) -> None:
    advisory = {"id": "X-1", "affected": [entry], "withdrawn": withdrawn}
    (tmp_path / "X-1.json").write_text(json.dumps(advisory))
    hits, _ = by_folder(tmp_path, INSTALLED, PROGRAM)
    assert bool(hits) is (found and not withdrawn)
