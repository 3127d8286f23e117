"""The Docker engine's API on a socket of the emulator's own, for `docker` and its clients as DOCKER_HOST.

All goes to the real engine as it comes. Only what is about REGION-docker.pkg.dev (push, pull, login) is
led to the emulator's own registry: the engine would look for Google's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import stat
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from docker.errors import DockerException, ImageNotFound

from emulator.engine import untag
from emulator.registry import HOST
from emulator.web import CHUNK, Request, Response, serve

if TYPE_CHECKING:
    from emulator.cloud import Cloud

ENGINE = "unix:///var/run/docker.sock"
OURS = re.compile(rf"(?:https?://)?({HOST})(?:/.*)?")
PATH = re.compile(
    r"(?P<version>/v[\d.]+)?/(?:images/(?P<pushed>.+)/push|images/(?P<pull>create)|(?P<login>auth))"
)
HEAD_END = b"\r\n\r\n"


class DockerSocket:
    """A unix socket that only this user can connect to."""

    def __init__(self, cloud: Cloud) -> None:
        """Name the socket: the same for the same state, and short, for the system takes 107 characters."""
        self._cloud = cloud
        self.path = Path(tempfile.gettempdir()) / cloud.engine.name() / "docker.sock"
        self._engine = urlsplit(os.environ.get("DOCKER_HOST") or ENGINE)
        self._listener: socket.socket | None = None
        self._names: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def start(self) -> None:
        """Listen, and answer in threads.

        Raises:
            PermissionError: the socket's folder is another user's.
        """
        folder = self.path.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
            raise PermissionError(f"{folder} is not this user's alone")
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Read a request's head, and see whose it is. One request a connection, so that each is seen."""
        begin = b""
        try:
            while HEAD_END not in begin:
                piece = client.recv(CHUNK)
                if not piece:
                    client.close()
                    return
                begin += piece
            verb, target, _ = begin.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        except (OSError, ValueError):
            client.close()
            return
        if self._concerns_us(verb, target):
            serve(cast(socket.socket, _Replayed(client, begin)), self._answer, "", "docker")
        else:
            self._lead(client, begin)

    def _concerns_us(self, verb: str, target: str) -> bool:
        url = urlsplit(target)
        found = PATH.fullmatch(url.path) if verb == "POST" else None
        if not found:
            return False
        image = unquote(found["pushed"] or "") or dict(parse_qsl(url.query)).get("fromImage", "")
        return bool(found["login"] or OURS.fullmatch(image))

    def _dial(self) -> socket.socket:
        if self._engine.scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._engine.path)
            return sock
        return socket.create_connection((self._engine.hostname or "", self._engine.port or 2375))

    def _lead(self, client: socket.socket, begin: bytes) -> None:
        """Copy bytes both ways until both have ended."""
        head, _, rest = begin.partition(HEAD_END)
        lines = head.split(b"\r\n")
        if not any(line.lower().startswith(b"upgrade:") for line in lines):
            lines = [line for line in lines if not line.lower().startswith(b"connection:")]
            lines.append(b"Connection: close")
        with client:
            try:
                engine = self._dial()
            except OSError as error:
                refusal = _refusal(502, f"no Docker engine answers: {error}")
                refusal.headers.append(("connection", "close"))
                serve(cast(socket.socket, _Replayed(client, begin)), lambda _: refusal, "", "docker")
                return
            with engine:
                with contextlib.suppress(OSError):
                    engine.sendall(b"\r\n".join(lines) + HEAD_END + rest)
                other = threading.Thread(target=_copy, args=(engine, client), daemon=True)
                other.start()
                _copy(client, engine)
                other.join()

    def _answer(self, request: Request) -> Response:
        """Answer a push, a pull or a login; never on a connection that is used again."""
        found = PATH.fullmatch(request.path)
        assert found is not None  # noqa: S101  # or it had not come here
        try:
            if found["login"]:
                response = self._login(request)
            elif found["pull"]:
                response = self._pull(request)
            else:
                response = self._push(request, found["version"] or "", unquote(found["pushed"]))
        except (DockerException, OSError) as error:
            response = _refusal(500, str(error))
        response.headers.append(("connection", "close"))
        return response

    def _login(self, request: Request) -> Response:
        """Check credentials; those for Google's registry at the emulator's."""
        body = json.loads(request.body)
        if OURS.fullmatch(body.get("serveraddress", "")):
            body["serveraddress"] = f"127.0.0.1:{self._cloud.port}"
        response = self._ask(request.target, request, json.dumps(body).encode())
        return Response(response.status, response.read(), _kept(response))

    def _push(self, request: Request, version: str, name: str) -> Response:
        """Push under the name that leads to the emulator; the image has it no longer than that."""
        api = self._cloud.engine.client.api
        tag = request.query.get("tag", [""])[0]
        names = [n for image in api.images(name) for n in image["RepoTags"] or []]
        tags = [tag] if tag else [n.rpartition(":")[2] for n in names]
        ours = self._cloud.engine.registry_name(name, self._cloud.port)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._names[name])
            for each in tags:
                with contextlib.suppress(ImageNotFound):  # the engine itself then says so
                    api.tag(f"{name}:{each}", ours, each)
                    stack.callback(untag, self._cloud.engine.client, f"{ours}:{each}")
            target = f"{version}/images/{quote(ours, safe='')}/push?{urlencode({'tag': tag} if tag else {})}"
            response = self._ask(target, request)
            stack.callback(response.close)
            return Response(response.status, self._renamed(name, response, stack.pop_all()), _kept(response))

    def _pull(self, request: Request) -> Response:
        """Pull under the name that leads to the emulator, then give it its own."""
        query = {name: values[-1] for name, values in request.query.items()}
        image, _, tag = query["fromImage"].partition(":")
        tag = query.pop("tag", "") or tag
        if "@" in image or ":" in tag or not tag:
            return _refusal(400, "the emulator does not model a pull by digest, or of all tags: name a tag")
        engine = self._cloud.engine
        ours = engine.registry_name(image, self._cloud.port)

        def rename() -> None:
            if engine.client.api.tag(f"{ours}:{tag}", image, tag):
                untag(engine.client, f"{ours}:{tag}")

        path = request.target.partition("?")[0]
        response = self._ask(f"{path}?{urlencode({**query, 'fromImage': ours, 'tag': tag})}", request)
        with contextlib.ExitStack() as stack:
            stack.callback(response.close)
            body = self._renamed(image, response, stack.pop_all(), rename)
        return Response(response.status, body, _kept(response))

    def _ask(self, target: str, request: Request, body: bytes = b"") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("docker")
        connection.sock = self._dial()
        headers = {"Connection": "close", **({"Content-Type": "application/json"} if body else {})}
        if "x-registry-auth" in request.headers:
            headers["X-Registry-Auth"] = request.headers["x-registry-auth"]
        connection.request("POST", target, body, headers)
        return connection.getresponse()

    def _renamed(
        self,
        name: str,
        response: http.client.HTTPResponse,
        stack: contextlib.ExitStack,
        done: Callable[[], None] | None = None,
    ) -> _Lines:
        """Return the engine's lines with the image's own name in them."""
        host, own = name.partition("/")[0], self._cloud.engine.name()
        names = {
            f"http://127.0.0.1:{self._cloud.port}/v2/{own}/{host}/": f"https://{host}/v2/",
            f"127.0.0.1:{self._cloud.port}/{own}/": "",
            f"{own}/{host}/": "",
        }
        return _Lines(response, names, stack, done)


class _Lines:
    """The lines of an answer, renamed; what it holds is let go when it is closed."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        names: dict[str, str],
        stack: contextlib.ExitStack,
        done: Callable[[], None] | None,
    ) -> None:
        """Rename in the lines, then do what is to be done unless one of them is an error."""
        self._response, self._names, self._stack, self._done = response, names, stack, done

    def __iter__(self) -> Iterator[bytes]:
        failed = self._response.status != 200
        for line in self._response:
            for ours, name in self._names.items():
                line = line.replace(ours.encode(), name.encode())
            failed = failed or b'"error"' in line
            yield line
        if self._done and not failed:
            self._done()

    def close(self) -> None:
        """Let go."""
        self._stack.close()


class _Replayed:
    """A socket from which a part has been read already."""

    def __init__(self, sock: socket.socket, begin: bytes) -> None:
        """Give the part first."""
        self._begin = begin
        self._sock = sock
        self.sendall = sock.sendall
        self.close = sock.close

    def recv(self, size: int) -> bytes:
        """Receive the part that was read, then what comes."""
        begin, self._begin = self._begin, b""
        return begin or self._sock.recv(size)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the end, and pass the end on; the other way may go on, as with `docker attach`."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _refusal(status: int, message: str) -> Response:
    """Return an error as the engine has it; its clients take no other content type."""
    text = json.dumps({"message": message}).encode()
    return Response(status, text, [("content-type", "application/json")])


def _kept(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    kept = ("content-type", "api-version", "docker-experimental", "ostype", "server")
    return [(name, value) for name, value in response.getheaders() if name.lower() in kept]
