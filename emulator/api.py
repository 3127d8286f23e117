"""Handlers by method id, and the one path that every API call takes to its handler and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from emulator.discovery import Discovery, Match, SchemaError, check, check_query
from emulator.errors import GoogleError
from emulator.iam import ANONYMOUS
from emulator.web import ConnectionDroppedError, Json, Request, Response

if TYPE_CHECKING:
    from emulator.cloud import Cloud

# For people gcloud calls these on its own client's account: a project need not have enabled them. For a
# service account they count as its project's.
ALWAYS_ENABLED = {"serviceusage", "cloudresourcemanager"}


@dataclass
class Call:
    """One checked API call."""

    cloud: Cloud
    request: Request
    method: str
    parameters: dict[str, str]  # of the path
    query: dict[str, str]
    body: Json
    principal: str
    project: str

    @property
    def resource(self) -> str:
        """The name of what the call is about, as policies know it."""
        for name in ("name", "resource", "parent", "secret"):
            if name in self.parameters:
                return self.cloud.canonical(self.parameters[name])
        if "bucket" in self.parameters:
            return f"b/{self.parameters['bucket']}"
        return f"projects/{self.project}"

    @property
    def email(self) -> str:
        """The caller's address."""
        return self.principal.partition(":")[2].partition(" ")[0]

    def require(self, permission: str, resource: str) -> None:
        """Refuse the call unless the caller has a permission.

        Raises:
            GoogleError: 401 without a token, else 403.
        """
        self.cloud.require(self.principal, permission, resource)


Handler = Callable[[Call], "Json | Response"]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Handled:
    """A method's handler, and the permission that it needs on the call's resource."""

    handler: Handler
    permission: str
    on: Callable[[Call], str]


HANDLERS: dict[str, Handled] = {}


def handles(
    method: str, permission: str = "", on: Callable[[Call], str] = lambda call: call.resource
) -> Callable[[H], H]:
    """Register the handler of a method.

    Args:
        method: its id in the discovery document.
        permission: what the caller needs; "" where the handler checks by itself.
        on: names the resource that it is needed on.
    """

    def register(handler: H) -> H:
        HANDLERS[method] = Handled(handler, permission, on)
        return handler

    return register


class Api:
    """Google's JSON APIs."""

    def __init__(self, cloud: Cloud) -> None:
        """Read the discovery documents."""
        self._cloud = cloud
        self.discovery = Discovery()

    def answers(self, host: str) -> bool:
        """Say whether a host is one of them."""
        return self.discovery.hosts(host) in self.discovery.methods

    def __call__(self, request: Request) -> Response:
        """Answer a request: match, faults, token, schema, API enabled, permission, handler, schema."""
        match = self.discovery.match(request.host, request.method, request.path)
        if match is None:
            error = GoogleError(400, f"no method known at {request.method} {request.host}{request.path}")
            return self._logged(request, "?", ANONYMOUS, error.response(), error.message)
        method = match.method.id
        principal, message = ANONYMOUS, ""
        try:
            fault = self._cloud.faults.take(method)
            if fault and not fault.after:
                fault.strike()
            principal = self._cloud.identity.principal(request.bearer)
            response = self._answer(match, request, principal)
            if fault and fault.after:
                fault.strike()
        except GoogleError as error:
            response, message = error.response(), error.message
        except ConnectionDroppedError:
            self._cloud.log_call(method, principal, request, 0, "connection dropped")
            raise
        return self._logged(request, method, principal, response, message)

    def _logged(
        self, request: Request, method: str, principal: str, response: Response, message: str
    ) -> Response:
        self._cloud.log_call(method, principal, request, response.status, message)
        return response

    def _answer(self, match: Match, request: Request, principal: str) -> Response:
        method = match.method
        handled = HANDLERS.get(method.id)
        if handled is None:
            raise GoogleError(400, f"the emulator does not model the method {method.id}")
        body = _body(match, request)
        query = {name: values[-1] for name, values in request.query.items()}
        project = self._cloud.project_of(match.parameters, query)
        call = Call(self._cloud, request, method.id, match.parameters, query, body, principal, project)
        service = method.host.partition(".")[0]
        if service not in ALWAYS_ENABLED or principal.startswith("serviceAccount:"):
            self._cloud.require_enabled(method.host, project)
        with self._cloud.store.lock:
            if handled.permission:
                self._cloud.require(principal, handled.permission, handled.on(call))
            answer = handled.handler(call)
            if request.method != "GET":
                self._cloud.store.save()
        if isinstance(answer, Response):
            return answer
        if method.response:
            try:
                check(method, method.response, answer)
            except SchemaError as error:
                message = f"the emulator's own answer to {method.id} is wrong: {error}"
                raise GoogleError(400, message) from None
        return Response.json(answer) if method.response else Response(204)


def _body(match: Match, request: Request) -> Json:
    """Return the request's checked body.

    Raises:
        GoogleError: it is not JSON or not what the schema says.
    """
    try:
        check_query(match.method, request.query)
        body: Any = json.loads(request.body) if request.body else {}
        if match.method.request:
            check(match.method, match.method.request, body)
        elif body:
            raise SchemaError(f"{match.method.id} takes no body")
    except (SchemaError, ValueError) as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from None
    return dict(body)
