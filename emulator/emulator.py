"""The HTTPS-intercepting proxy: CONNECT, TLS with a certificate of the local authority, routing by host."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType

from emulator import handlers
from emulator.api import Api
from emulator.certificates import Authority
from emulator.cloud import Cloud
from emulator.errors import GoogleError
from emulator.pages import page
from emulator.rpc import HOST, Rpc
from emulator.run.runtime import Runtime
from emulator.web import ConnectionDroppedError, Request, Response, serve

log = logging.getLogger("emulator")


class Emulator:
    """An emulated Google Cloud on a port of this machine.

    Use it as a context manager, or call `start` and `stop`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        project: str = "emulated-project",
        number: str = "123456789012",
        owner: str = "owner@example.com",
    ) -> None:
        """Prepare the emulator.

        Args:
            folder: holds its state; with the same folder it comes up as it went down.
            port: of 127.0.0.1; 0 takes a free one.
            project: the id of the project that is there at first.
            number: the project's number.
            owner: the address of the project's owner, who `environment` signs in.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.folder = folder.resolve()
        self.cloud = Cloud(self.folder)
        self.cloud.run = Runtime(self.cloud)
        self.cloud.add_project(project, number, owner)
        self.project, self.owner = project, owner
        self.authority = Authority(self.folder)
        self._api = Api(self.cloud)
        self._port = port
        self._listeners: list[socket.socket] = []
        self._rpc: Rpc | None = None
        self._rpc_lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def start(self) -> None:
        """Listen, and answer in threads."""
        self._listen("127.0.0.1")
        self.cloud.port, self.cloud.listen = self._port, self._listen
        self.cloud.docker.start()
        log.info("listening on 127.0.0.1:%s", self.port)

    def stop(self) -> None:
        """Listen no more, stop what runs, and write the state."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._listeners.clear()
        self.cloud.docker.stop()
        self.cloud.run.close()
        if self._rpc:
            self._rpc.stop()
        self.cloud.engine.clean()
        self.cloud.store.save()

    def wipe(self) -> None:
        """Stop, and delete the data of databases and buckets; the folder is the caller's to remove."""
        self.stop()
        self.cloud.engine.clean(volumes=True)

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self, email: str = "") -> dict[str, str]:
        """Return the variables with which gcloud, Google's clients and Docker's talk to this emulator.

        gcloud's and Docker's configuration goes to a folder of its own, one for each user.

        Args:
            email: who is signed in; the owner when empty.
        """
        email = email or self.owner
        home = self.folder / "gcloud" / email
        home.mkdir(parents=True, exist_ok=True)
        credentials = home / "credentials.json"
        if not credentials.exists():
            with self.cloud.store.lock:
                credentials.touch(mode=0o600)
                credentials.write_text(json.dumps(self.cloud.identity.authorized_user(email)))
                self.cloud.store.save()
        certificate = str(self.authority.certificate)
        return {
            # lower case: gRPC ignores HTTPS_PROXY
            "https_proxy": f"http://127.0.0.1:{self.port}",
            "no_proxy": "127.0.0.1,localhost",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": certificate,
            "REQUESTS_CA_BUNDLE": certificate,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": certificate,
            "SSL_CERT_FILE": certificate,
            "CLOUDSDK_CONFIG": str(home),
            "CLOUDSDK_CORE_PROJECT": self.project,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(credentials),
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "GOOGLE_CLOUD_PROJECT": self.project,
            "DOCKER_HOST": f"unix://{self.cloud.docker.path}",
            "DOCKER_CONFIG": str(home / "docker"),  # `docker login` writes into it
            "GCE_METADATA_ROOT": "127.0.0.1:1",  # no look-up of metadata.google.internal
        }

    def answer(self, request: Request) -> Response:
        """Route a request by its host."""
        try:
            found = page(request)
            if found:
                return found(self.cloud, request)
            if self._api.answers(request.host):
                return self._api(request)
        except GoogleError as error:
            return error.response()
        except ConnectionDroppedError:
            raise
        except Exception as error:
            log.exception("an error of the emulator's own at %s %s", request.method, request.path)
            return Response.text(f"an error of the emulator's own: {error!r}\n", 400)
        log.error("refused: nothing is modelled at %s %s%s", request.method, request.host, request.path)
        return Response.text(f"the emulator models nothing at {request.host}{request.path}\n", 502)

    def _listen(self, address: str) -> None:
        """Listen on an address of this machine; nothing happens when it does already."""
        if any(listener.getsockname()[0] == address for listener in self._listeners):
            return
        listener = socket.create_server((address, self._port), backlog=128)
        self._port = listener.getsockname()[1]
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def connect(target: str, connected: socket.socket, peer: str = peer[0]) -> None:
                self._connect(target, connected, peer)

            arguments = (sock, self.answer, peer[0], "", connect)
            threading.Thread(target=serve, args=arguments, daemon=True).start()

    def _connect(self, target: str, sock: socket.socket, peer: str) -> None:
        host, _, port = target.rpartition(":")
        if port != "443":
            log.error("refused: a connection to %s", target)
            sock.close()
            return
        protocols = ("h2", "http/1.1") if host == HOST else ("http/1.1",)
        try:
            secure = self.authority.context(host, protocols).wrap_socket(sock, server_side=True)
        except (OSError, ssl.SSLError) as error:
            log.warning("TLS for %s failed: %s", host, error)
            sock.close()
            return
        if secure.selected_alpn_protocol() == "h2":
            with self._rpc_lock:
                self._rpc = self._rpc or Rpc(self.answer)
            self._rpc.lead(secure)
        else:
            serve(secure, self.answer, peer, host)


__all__ = ["Emulator", "handlers"]
