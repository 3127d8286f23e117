"""Routing and checking from Google's own discovery documents, which google-api-python-client ships."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import unquote

from emulator.web import Json

DOCUMENTS = (
    "artifactregistry.v1",
    "cloudbuild.v1",
    "cloudresourcemanager.v1",
    "iam.v1",
    "iamcredentials.v1",
    "logging.v2",
    "run.v1",
    "secretmanager.v1",
    "serviceusage.v1",
    "sqladmin.v1beta4",
    "storage.v1",
)
REGIONAL_RUN = re.compile(r"([a-z]+-[a-z]+\d+)-run\.googleapis\.com")


class SchemaError(Exception):
    """A message does not have the form that the discovery document gives it."""


@dataclass(frozen=True)
class Method:
    """One method of one API."""

    id: str
    verb: str
    host: str
    path: re.Pattern[str]
    parameters: Json
    request: str  # names of schemas, or ""
    response: str
    schemas: Json


@dataclass(frozen=True)
class Match:
    """A request's method, with the parameters of its path."""

    method: Method
    parameters: dict[str, str]


class Discovery:
    """All methods of all documents."""

    def __init__(self) -> None:
        """Read the documents."""
        folder = resources.files("googleapiclient.discovery_cache") / "documents"
        self.methods: dict[str, list[Method]] = {}  # by host
        for name in DOCUMENTS:
            document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            host = document["rootUrl"].removeprefix("https://").rstrip("/")
            for method in _methods(document):
                self.methods.setdefault(host, []).append(_method(document, host, method))

    def hosts(self, host: str) -> str:
        """Return the host that the documents know this one by: REGION-run.googleapis.com is run's."""
        return "run.googleapis.com" if REGIONAL_RUN.fullmatch(host) else host

    def match(self, host: str, verb: str, path: str) -> Match | None:
        """Return the method of a request, or None."""
        for method in self.methods.get(self.hosts(host), []):
            found = method.path.fullmatch(path) if method.verb == verb else None
            if found:
                return Match(method, {name: unquote(value) for name, value in found.groupdict().items()})
        return None


def _methods(resource: Json) -> list[Json]:
    found = list(resource.get("methods", {}).values())
    for child in resource.get("resources", {}).values():
        found += _methods(child)
    return found


def _method(document: Json, host: str, method: Json) -> Method:
    parameters = {**document.get("parameters", {}), **method.get("parameters", {})}
    template = "/" + document["servicePath"] + method["path"]
    return Method(
        id=method["id"],
        verb=method["httpMethod"],
        host=host,
        path=_pattern(template, parameters),
        parameters=parameters,
        request=method.get("request", {}).get("$ref", ""),
        response=method.get("response", {}).get("$ref", ""),
        schemas=document["schemas"],
    )


def _pattern(template: str, parameters: Json) -> re.Pattern[str]:
    """Compile a path template: `{name}` is one segment, `{+name}` follows the parameter's own pattern."""
    pattern = ""
    for piece in re.split(r"(\{\+?\w+\})", template):
        name = piece.strip("{+}")
        if not piece.startswith("{"):
            pattern += re.escape(piece)
        elif piece.startswith("{+"):
            # no colon in a segment but a digest's: after it comes the verb, as in `:getIamPolicy`
            form = parameters[name].get("pattern", "^[^:]+$")[1:-1].replace("[^/]", "(?:[^/:]|(?<=sha256):)")
            pattern += f"(?P<{name}>{form})"
        else:
            pattern += f"(?P<{name}>[^/]+)"
    return re.compile(pattern)


def check_query(method: Method, query: dict[str, list[str]]) -> None:
    """Refuse a query parameter that the method does not have.

    Raises:
        SchemaError: there is one.
    """
    unknown = sorted(set(query) - set(method.parameters) - {"$alt", "alt", "$.xgafv"})
    if unknown:
        raise SchemaError(f"{method.id} has no parameter {', '.join(unknown)}")


def check(method: Method, schema: str, value: Any) -> None:
    """Hold a message against its schema.

    Raises:
        SchemaError: an unknown field or a wrong type, with its path.
    """
    _check(method.schemas, {"$ref": schema}, value, schema)


PLAIN: dict[str, type | tuple[type, ...]] = {"boolean": bool, "number": (int, float), "integer": int}


def _check(schemas: Json, schema: Json, value: Any, where: str) -> None:
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind = schema.get("type", "any")
    if value is None or kind == "any":
        return
    if kind == "object":
        _check_object(schemas, schema, value, where)
    elif kind == "array":
        if not isinstance(value, list):
            raise SchemaError(f"{where} is to be a list, not {value!r:.60}")
        for index, item in enumerate(value):
            _check(schemas, schema["items"], item, f"{where}[{index}]")
    elif kind == "string":
        _check_string(schema, value, where)
    elif not isinstance(value, PLAIN[kind]) or (kind != "boolean" and isinstance(value, bool)):
        raise SchemaError(f"{where} is to be of type {kind}, not {value!r:.60}")


def _check_object(schemas: Json, schema: Json, value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise SchemaError(f"{where} is to be an object, not {value!r:.60}")
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for name, item in value.items():
        if name in properties:
            _check(schemas, properties[name], item, f"{where}.{name}")
        elif others is not None:
            _check(schemas, others, item, f"{where}.{name}")
        else:
            raise SchemaError(f"{where} has no field {name!r}")


def _check_string(schema: Json, value: Any, where: str) -> None:
    if schema.get("format", "") in ("int64", "uint64") and isinstance(value, int):
        return
    if "enum" in schema and isinstance(value, int):
        return  # as Google's REST clients write it: https://protobuf.dev/programming-guides/json/
    if not isinstance(value, str):
        raise SchemaError(f"{where} is to be a string, not {value!r:.60}")
    if "enum" in schema and value not in schema["enum"]:
        raise SchemaError(f"{where} is to be one of {', '.join(schema['enum'])}, not {value!r:.60}")
