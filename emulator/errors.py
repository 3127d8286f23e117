"""Google's errors, and how they look on the wire."""

from __future__ import annotations

from emulator.web import Json, Response

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
REASON = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
}


class GoogleError(Exception):
    """A call is refused, as Google would refuse it."""

    def __init__(self, code: int, message: str, status: str = "", details: list[Json] | None = None) -> None:
        """Refuse with an HTTP status; Google's own status follows from it where none is given."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS.get(code, "UNKNOWN")
        self.details = details or []

    def response(self) -> Response:
        """Return it as https://cloud.google.com/apis/design/errors has it, older APIs' `errors` included."""
        error: Json = {"code": self.code, "message": self.message, "status": self.status}
        error["errors"] = [
            {"message": self.message, "domain": "global", "reason": REASON.get(self.code, "backendError")}
        ]
        if self.details:
            error["details"] = self.details
        return Response.json({"error": error}, self.code)


class NotModelledError(GoogleError):
    """The emulator does not do this. Never a 5xx, which gcloud would try again for half a minute."""

    def __init__(self, what: str) -> None:
        """Refuse what is named."""
        super().__init__(400, f"the emulator does not model {what}", "INVALID_ARGUMENT")


def not_found(what: str) -> GoogleError:
    """Return the error for a resource that is not there."""
    return GoogleError(404, f"{what} was not found.")


def exists(what: str) -> GoogleError:
    """Return the error for a resource that is there already."""
    return GoogleError(409, f"{what} already exists.")
