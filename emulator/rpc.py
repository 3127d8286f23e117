"""gRPC for Cloud Build's client: the same handlers, reached by the same checks as over REST."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.cloud.devtools import cloudbuild_v1
from google.longrunning import operations_pb2
from google.protobuf import json_format

from emulator.web import CHUNK, Handle, Request

HOST = "cloudbuild.googleapis.com"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
# By method: the types of request and answer, and the REST call that is the same.
CALLS: dict[str, tuple[Any, Any, Callable[[Any], tuple[str, str, Any]]]] = {
    "/google.devtools.cloudbuild.v1.CloudBuild/CreateBuild": (
        cloudbuild_v1.CreateBuildRequest.pb(),
        operations_pb2.Operation,
        lambda r: ("POST", f"/v1/projects/{r.project_id}/builds", r.build),
    ),
    "/google.devtools.cloudbuild.v1.CloudBuild/GetBuild": (
        cloudbuild_v1.GetBuildRequest.pb(),
        cloudbuild_v1.Build.pb(),
        lambda r: ("GET", f"/v1/projects/{r.project_id}/builds/{r.id}", None),
    ),
    "/google.longrunning.Operations/GetOperation": (
        operations_pb2.GetOperationRequest,
        operations_pb2.Operation,
        lambda r: ("GET", f"/v1/{r.name}", None),
    ),
}


class Rpc(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """A gRPC server on a port of its own, which decrypted connections are led to."""

    def __init__(self, handle: Handle) -> None:
        """Answer by a handler of REST calls."""
        self._handle = handle
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method; gRPC itself refuses one without."""
        if details.method not in CALLS:
            return None
        request, answer, rest = CALLS[details.method]

        def unary(message: Any, context: grpc.ServicerContext) -> Any:
            verb, path, body = rest(message)
            content = json_format.MessageToJson(body).encode() if body is not None else b""
            headers = {str(name): str(value) for name, value in details.invocation_metadata}
            response = self._handle(Request(verb, HOST, path, {}, headers, content, "127.0.0.1", path))
            text = response.body if isinstance(response.body, bytes) else b"".join(response.body)
            if response.status != 200:
                code = CODES.get(response.status, grpc.StatusCode.UNKNOWN)
                context.abort(code, json.loads(text)["error"]["message"])
            return json_format.Parse(text, answer(), ignore_unknown_fields=False)

        return grpc.unary_unary_rpc_method_handler(unary, request.FromString, answer.SerializeToString)

    def lead(self, client: socket.socket) -> None:
        """Copy bytes between a client and the server until one of them ends."""
        server = socket.create_connection(("127.0.0.1", self._port))
        other = threading.Thread(target=_copy, args=(server, client), daemon=True)
        other.start()
        _copy(client, server)
        other.join()
        client.close()
        server.close()

    def stop(self) -> None:
        """End the server."""
        self._server.stop(None)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
