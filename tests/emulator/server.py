"""What the deployed test image runs: a server that tells what it sees and does what it is told."""

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

count = 0


def work() -> None:
    """Count as fast as the CPU lets."""
    global count
    while True:
        count += 1


def metadata(path: str) -> str:
    """Ask the metadata server."""
    url = f"http://{os.environ['GCE_METADATA_HOST']}/computeMetadata/v1/instance/service-accounts/default/{path}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    return str(urllib.request.urlopen(request).read().decode())


def connect(path: str) -> str:
    """Connect to a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
    return "connected"


def sleep(seconds: float) -> str:
    """Take a while."""
    time.sleep(seconds)
    return "slept"


def google(url: str) -> str:
    """Ask one of Google's hosts, over TLS."""
    token = json.loads(metadata("token"))["access_token"]
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        return str(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        return str(error.code)


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    def do_GET(self) -> None:
        """Do what the path says with the query's `x`."""
        url = urlsplit(self.path)
        x = parse_qs(url.query).get("x", [""])[0]
        actions: dict[str, Callable[[], str]] = {
            "/": lambda: "hello from " + os.environ["K_REVISION"],
            "/env": lambda: os.environ.get(x, ""),
            "/file": lambda: Path(x).read_text(),
            "/ls": lambda: " ".join(sorted(p.name for p in Path(x).iterdir())),
            "/count": lambda: str(count),
            "/sleep": lambda: sleep(float(x)),
            "/host": socket.gethostname,
            "/headers": lambda: json.dumps(dict(self.headers)),
            "/metadata": lambda: metadata(x),
            "/connect": lambda: connect(x),
            "/google": lambda: google(x),
            "/eat": lambda: str(len(bytearray(int(x) * 1024**2))),
        }
        try:
            body, status = actions[url.path]().encode(), 200
        except OSError as error:
            body, status = repr(error).encode(), 500
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Say how much came."""
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", str(len(str(size))))
        self.end_headers()
        self.wfile.write(str(size).encode())


def terminate(*_: object) -> None:
    """Say goodbye."""
    print("goodbye", flush=True)
    os._exit(0)


def main() -> None:
    """Serve, or fail as told."""
    if os.environ.get("FAIL") == "exit":
        sys.exit("the server has no configuration")
    if os.environ.get("FAIL") == "memory":
        bytearray(1024**3)
    if os.environ.get("FAIL") == "hang":
        time.sleep(3600)
    signal.signal(signal.SIGTERM, terminate)
    print(json.dumps({"severity": "NOTICE", "message": "serving"}), flush=True)
    if os.environ.get("STRUCTURED"):
        print(json.dumps({"severity": "NOTICE", "message": "started", "detail": 7}), flush=True)
    if os.environ.get("WORK"):
        threading.Thread(target=work, daemon=True).start()
    ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
