"""What MLflow's page is made to say. The UIs here are made up; MLflow's own is tried in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from server import preload

ROUTES = (
    '{path:a,element:(0,Q)(()=>n.e(817).then(n.bind(n,817))),pageId:"mlflow.settings"},'
    '{path:b,element:(0,Q)(()=>Promise.all([n.e(73),n.e(99)]).then(n.bind(n,5))),pageId:"mlflow.experiment.list"}'
)
SERVER_INFO = '<link rel="preload" href="ajax-api/3.0/mlflow/server-info" as="fetch" crossorigin>'


@pytest.fixture
def ui(tmp_path: Path) -> Path:
    """A built UI."""
    for name in ("js/73.c1.chunk.js", "js/99.c2.chunk.js", "css/99.c3.chunk.css", "js/817.c4.chunk.js"):
        path = tmp_path / "static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.with_name(f"{path.name}.map").write_text("")
    (tmp_path / "static/js/main.c0.js").write_text(ROUTES)
    (tmp_path / "index.html").write_text("<html><head></head><body></body></html>")
    return tmp_path


def test_the_page_names_the_views_parts_and_no_others(ui: Path) -> None:
    preload.main(ui)
    assert (ui / "index.html").read_text() == (
        f"<html><head>{SERVER_INFO}"
        '<link rel="preload" href="static-files/static/js/73.c1.chunk.js" as="script">'
        '<link rel="preload" href="static-files/static/css/99.c3.chunk.css" as="style">'
        '<link rel="preload" href="static-files/static/js/99.c2.chunk.js" as="script">'
        "</head><body></body></html>"
    )


@pytest.mark.parametrize("script", ["", ROUTES.replace("experiment.list", "experiments")])
def test_a_view_that_is_not_there_has_no_parts(script: str, ui: Path) -> None:
    (ui / "static/js/main.c0.js").write_text(script)
    assert preload.links(ui) == [SERVER_INFO]
    (ui / "static/js/main.c0.js").unlink()
    assert preload.links(ui) == [SERVER_INFO]
