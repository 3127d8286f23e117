"""What uvicorn serves: the UI's files, MLflow's Flask app, and its FastAPI app when a request needs it.

`mlflow server` mounts Flask in FastAPI, behind seven middlewares that Flask has of its own. Here each request
goes to the one of the two that answers it, so that a start imports no FastAPI and most requests pass none.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from server.closed import App, guarded

# Where MLflow's FastAPI app has routes that Flask has not; what else begins so, it hands on to Flask itself.
# A test of the image compares them with the app's own.
NATIVE = (
    "/v1/",  # traces by OTLP
    "/gateway/",
    "/ajax-api/3.0/jobs",
    "/api/2.0/mlflow-artifacts/artifacts/",
    "/ajax-api/2.0/mlflow-artifacts/artifacts/",
    "/api/3.0/mlflow/mcp-servers",
    "/ajax-api/3.0/mlflow/mcp-servers",
)
FILES = "/static-files/"
# Parts of an answer, of a file 8 KiB each, that wait for a slow reader in memory; more wait in a thread.
WAITING = 2000
# The UI's files have their content's hash in their names.
HASHED = r"\.[0-9a-f]{8,}\."
# As MLflow has them on all its answers.
HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN"}


def application(threads: int) -> App:
    """Return MLflow's app. Call it when its stores are open.

    Args:
        threads: how many requests may use the database at once.
    """
    import mlflow.server
    from a2wsgi import WSGIMiddleware
    from servestatic import ServeStaticASGI

    # One thread is the FastAPI app's: its few routes that work in threads are of the MCP registry.
    flask = WSGIMiddleware(mlflow.server.app, workers=max(1, threads - 1), send_queue_size=WAITING)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith(NATIVE):
            await fastapi()(scope, receive, send)
        else:
            await flask(scope, await whole(receive), send)

    files = ServeStaticASGI(
        guarded(answer),
        root=Path(mlflow.server.__file__).parent / mlflow.server.REL_STATIC_DIR,
        prefix=FILES,
        autorefresh=True,
        allow_all_origins=False,
        immutable_file_test=HASHED,
        add_headers_function=_add_headers,
    )
    # ServeStatic looks either at all its files at the start, a tenth of it, or at one anew for each request.
    # Here at one when it is first asked for.
    files.autorefresh = False

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path.startswith(FILES) and path not in files.files and (found := files.find_file(path)):
            files.files[path] = found
        await files(scope, receive, send)

    return serve


async def whole(receive: Any) -> Any:
    """Take in a request's body, and return what hands it out: a slow sender is not to hold a thread."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": b"".join(parts)}

    return again


@cache
def fastapi() -> App:
    """Return MLflow's FastAPI app. The first call imports it; make it in the event loop."""
    from anyio import to_thread
    from mlflow.server import fastapi_app

    to_thread.current_default_thread_limiter().total_tokens = 1
    app: App = fastapi_app.app
    return app


def _add_headers(headers: Any, path: str, url: str) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    # Behind the sign-in: nobody but the browser is to keep it.
    headers["Cache-Control"] = headers["Cache-Control"].replace("public", "private")
