"""Each thing that makes the service fast or small, taken out by itself: what it is worth.

A lever is the edits of a rendered project that take it out; of the result an image is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lever:
    """What it is, the measure that shows it, and the edits that take it out: file, old text, new text.

    Attributes:
        figure: of the measure, in report.py; the measure's own when empty.
    """

    name: str
    measure: str
    edits: tuple[tuple[str, str, str], ...]
    figure: str = ""


MAIN, APP, LAZY, STORE = (f"server/{name}.py" for name in ("__main__", "app", "lazy", "store"))
LEVERS = (
    Lever(
        "MLflow's modules imported when they are used",
        "start",
        # But for the two that are not there: the gateway, which is closed, names them.
        (
            (
                LAZY,
                'return "protobuf" not in name and',
                'return name in ("numpy", "pandas") and',
            ),
        ),
    ),
    Lever(
        "builders of URLs compiled when one is called",
        "start",
        ((LAZY, "\n    _defer_url_builders()", "\n    #"),),
    ),
    Lever(
        "the preflight's imports when they are used",
        "start",
        (("start.sh", "python3 -X lazy_imports=all -m server.preflight", "python3 -m server.preflight"),),
    ),
    Lever(
        "FastAPI when a request needs it, Flask for the others",
        "start",
        ((APP, 'scope["path"].startswith(NATIVE)', "True"),),
    ),
    Lever(
        "the schema's revision known from the build, no Alembic",
        "start",
        (
            ("Dockerfile", "mv /tmp/revision /app/server/schema-revision", "rm /tmp/revision"),
            (STORE, "        utils._verify_schema = check_schema", "        #"),
        ),
    ),
    Lever("no garbage collection while importing", "start", ((MAIN, "    gc.disable()", "    #"),)),
    Lever(
        "what is imported is never collected, so that two processes share it",
        "two",
        ((MAIN, "    gc.freeze()", "    #"),),
    ),
    Lever(
        "the preflight beside MLflow's start, not before it",
        "start",
        (
            (
                "start.sh",
                "  background preflight_pid preflight\n",
                '  background preflight_pid preflight\n  wait "$preflight_pid"\n',
            ),
        ),
        "seconds",
    ),
    Lever(
        "a look each 20 ms whether MLflow answers, not each 250",
        "start",
        (("start.sh", "read -r -t 0.02", "read -r -t 0.25"),),
        "seconds",
    ),
    Lever("bytecode that is not checked", "start", (("Dockerfile", "unchecked-hash", "timestamp"),)),
    Lever(
        "the UI's files looked at when asked for", "start", ((APP, "autorefresh=True", "autorefresh=False"),)
    ),
    Lever(
        "the UI compressed when the image is built",
        "click",
        (("Dockerfile", "-m servestatic.compress", "-m compileall -l -q #"),),
    ),
    Lever(
        "the page names what its first view asks for",
        "click",
        (("Dockerfile", "RUN python3 /build/preload.py", "RUN true"),),
        "page",
    ),
    Lever(
        "sources of other packages than MLflow left out",
        "size",
        (("Dockerfile", " && xargs rm </build/sources \\\n", ""),),
    ),
    Lever("shared libraries without symbols", "size", (("Dockerfile", "strip --strip-unneeded", "true"),)),
    Lever(
        "the UPDATEs of a batch sent together",
        "load",
        (
            (
                STORE,
                "return _batching(utils.create_sqlalchemy_engine_with_retry(uri))",
                "return utils.create_sqlalchemy_engine_with_retry(uri)",
            ),
        ),
        "batch",
    ),
    Lever(
        "uvloop and httptools",
        "load",
        ((MAIN, 'loop="uvloop"', 'loop="asyncio"'), (MAIN, 'http="httptools"', 'http="h11"')),
    ),
)
# Not levers: what was tried and is not there. The edits put it in.
TRIED = (
    Lever(
        "OAuth2-Proxy's garbage collector at GOGC=400",
        "load",
        (("start.sh", "    oauth2-proxy --config", "    GOGC=400 oauth2-proxy --config"),),
    ),
    Lever(
        "OAuth2-Proxy's garbage collector off up to 64 MiB",
        "load",
        (("start.sh", "    oauth2-proxy --config", "    GOGC=off GOMEMLIMIT=64MiB oauth2-proxy --config"),),
    ),
    Lever(
        "lazy imports of all packages but Google's and SQLAlchemy's",
        "start",
        (
            (
                LAZY,
                'if not (importer == "mlflow" or importer.startswith("mlflow.")):',
                'if importer.split(".")[0] in ("google", "sqlalchemy"):',
            ),
        ),
    ),
)


def take_out(lever: Lever, project: Path) -> None:
    """Take a lever out of a rendered project, or put in what was tried.

    Raises:
        ValueError: it is no longer where it was.
    """
    for name, old, new in lever.edits:
        file = project / name
        text = file.read_text()
        if old not in text:
            raise ValueError(f"{name} no longer has {old!r}")
        file.write_text(text.replace(old, new))
