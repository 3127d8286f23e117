"""`python3 preload.py FOLDER`: have MLflow's page say at once what its first view will ask for.

MLflow's main script, most of a megabyte, asks for the list of experiments' own parts and for what the server
can when it has been fetched and run; a browser that is told in the page fetches them meanwhile.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

VIEW = 'pageId:"mlflow.experiment.list"'
KINDS = {".js": "script", ".css": "style"}
# Asked for by the main script whatever the view; crossorigin, as fetch() has it.
LINKS = ['<link rel="preload" href="ajax-api/3.0/mlflow/server-info" as="fetch" crossorigin>']


def view_parts(script: str) -> list[str]:
    """Return the numbers of the parts that the view's route in MLflow's main script names, if it is there."""
    before, found, _ = script.partition(VIEW)
    return re.findall(r"\.e\((\d+)\)", before[before.rfind("element:") :]) if found else []


def links(folder: Path) -> list[str]:
    """Return the page's links, for MLflow's built UI in `folder`."""
    script = "".join(path.read_text(encoding="utf-8") for path in folder.glob("static/js/main.*.js"))
    numbers = view_parts(script)
    paths = [path for n in numbers for path in sorted(folder.glob(f"static/*/{n}.*")) if path.suffix in KINDS]
    return LINKS + [
        f'<link rel="preload" href="static-files/{path.relative_to(folder)}" as="{KINDS[path.suffix]}">'
        for path in paths
    ]


def main(folder: Path) -> None:
    """Write the links into the page."""
    page = folder / "index.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</head>", "".join(links(folder)) + "</head>"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
