"""artifactregistry.googleapis.com: what is in Docker repositories. registry.py keeps it."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from emulator.api import Call, handles
from emulator.apis.artifactregistry import REPOSITORIES, done, repository
from emulator.errors import GoogleError, NotModelledError, exists, not_found
from emulator.web import Json

PACKAGES = f"{REPOSITORIES}.packages"
RESOURCE = re.compile(
    r"(?P<repository>projects/[^/]+/locations/[^/]+/repositories/[^/]+)"
    r"(?:/packages/(?P<package>.+?)(?:/(?:tags|versions)/(?P<id>[^/]+))?|/dockerImages/(?P<image>.+))?"
)
VERSION_FILTER = re.compile(r'version="([^"]+)"')


def _part(call: Call, name: str) -> str:
    found = RESOURCE.fullmatch(call.resource)
    if not found:
        raise not_found(f"Requested entity {call.resource}")
    return unquote(found[name] or "")  # a name's slashes are %2F within a resource's name


def _packages(call: Call) -> list[tuple[str, Json]]:
    """Return a repository's packages, with the names that they have in it."""
    name = _part(call, "repository")
    repository(call, name)
    begin = f"{name}/packages/"
    stored = sorted(call.cloud.store["packages"].items())
    return [(key.removeprefix(begin), value) for key, value in stored if key.startswith(begin)]


def _package(call: Call) -> Json:
    for name, package in _packages(call):
        if name == _part(call, "package"):
            return package
    raise not_found(f"Requested entity {call.resource}")


def _package_name(call: Call, name: str = "") -> str:
    return f"{_part(call, 'repository')}/packages/{quote(name or _part(call, 'package'), safe='')}"


def _shown_package(call: Call, name: str, package: Json) -> Json:
    times = {field: package[field] for field in ("createTime", "updateTime")}
    return {"name": _package_name(call, name), **times}


@handles(f"{PACKAGES}.list", "artifactregistry.packages.list")
def list_packages(call: Call) -> Json:
    """List the images of a repository, whatever their versions."""
    _refuse_filter(call)
    return {"packages": [_shown_package(call, *package) for package in _packages(call)]}


@handles(f"{PACKAGES}.get", "artifactregistry.packages.get")
def get_package(call: Call) -> Json:
    """Describe an image, whatever its version."""
    return _shown_package(call, _part(call, "package"), _package(call))


@handles(f"{PACKAGES}.delete", "artifactregistry.packages.delete")
def delete_package(call: Call) -> Json:
    """Delete an image with all its versions, at once."""
    _package(call)
    del call.cloud.store["packages"][f"{_part(call, 'repository')}/packages/{_part(call, 'package')}"]
    return done(call, {})


def _refuse_filter(call: Call) -> None:
    if call.query.get("filter"):
        raise NotModelledError(f"the filter {call.query['filter']}")


def _tag(call: Call, tag: str, digest: str) -> Json:
    package = _package_name(call)
    return {"name": f"{package}/tags/{tag}", "version": f"{package}/versions/{digest}"}


@handles(f"{PACKAGES}.tags.list", "artifactregistry.tags.list")
def list_tags(call: Call) -> Json:
    """List an image's tags: all, or those of one version."""
    wanted = VERSION_FILTER.fullmatch(call.query.get("filter", ""))
    if not wanted:
        _refuse_filter(call)
    tags = [_tag(call, tag, digest) for tag, digest in sorted(_package(call)["tags"].items())]
    return {"tags": [tag for tag in tags if not wanted or tag["version"] == wanted[1]]}


@handles(f"{PACKAGES}.tags.get", "artifactregistry.tags.get")
def get_tag(call: Call) -> Json:
    """Return the version that a tag is of."""
    tag = _part(call, "id")
    if tag not in _package(call)["tags"]:
        raise not_found(f"Requested entity {call.resource}")
    return _tag(call, tag, _package(call)["tags"][tag])


@handles(f"{PACKAGES}.tags.create", "artifactregistry.tags.create")
def create_tag(call: Call) -> Json:
    """Give a version a tag."""
    tag, digest = call.query.get("tagId", ""), call.body.get("version", "").rpartition("/")[2]
    package = _package(call)
    if tag in package["tags"]:
        raise exists("the tag")
    if not tag or digest not in package["versions"]:
        raise GoogleError(400, f"There is no version {digest}, or the tag has no name.")
    package["tags"][tag] = digest
    return _tag(call, tag, digest)


@handles(f"{PACKAGES}.tags.delete", "artifactregistry.tags.delete")
def delete_tag(call: Call) -> Json:
    """Take a tag away; the version stays."""
    get_tag(call)
    del _package(call)["tags"][_part(call, "id")]
    return {}


def _tags_of(package: Json, digest: str) -> list[str]:
    return sorted(tag for tag, of in package["tags"].items() if of == digest)


def _version(call: Call, package: Json, digest: str) -> Json:
    stored = package["versions"].get(digest)
    if stored is None:
        raise not_found(f"Requested entity {call.resource}")
    metadata = {"imageSizeBytes": str(stored["size"]), "mediaType": stored["mediaType"]}
    return {
        "name": f"{_package_name(call)}/versions/{digest}",
        "createTime": stored["createTime"],
        "updateTime": stored["updateTime"],
        "metadata": metadata,
        "relatedTags": [_tag(call, tag, digest) for tag in _tags_of(package, digest)],
    }


@handles(f"{PACKAGES}.versions.list", "artifactregistry.versions.list")
def list_versions(call: Call) -> Json:
    """List an image's versions."""
    _refuse_filter(call)
    package = _package(call)
    return {"versions": [_version(call, package, digest) for digest in package["versions"]]}


@handles(f"{PACKAGES}.versions.get", "artifactregistry.versions.get")
def get_version(call: Call) -> Json:
    """Describe a version."""
    return _version(call, _package(call), _part(call, "id"))


@handles(f"{PACKAGES}.versions.delete", "artifactregistry.versions.delete")
def delete_version(call: Call) -> Json:
    """Delete a version, at once; one with tags by force only."""
    package, digest = _package(call), _part(call, "id")
    tags = [tag["name"].rpartition("/")[2] for tag in _version(call, package, digest)["relatedTags"]]
    if tags and call.query.get("force") != "true":
        raise GoogleError(400, f"The version is tagged: {', '.join(tags)}.", "FAILED_PRECONDITION")
    for tag in tags:
        del package["tags"][tag]
    del package["versions"][digest]
    return done(call, {})


def _images(call: Call) -> list[Json]:
    name = _part(call, "repository")
    _, project, _, location, _, identifier = name.split("/")
    return [
        {
            "name": f"{name}/dockerImages/{quote(image, safe='')}@{digest}",
            "uri": f"{location}-docker.pkg.dev/{project}/{identifier}/{image}@{digest}",
            "tags": _tags_of(package, digest),
            "imageSizeBytes": str(version["size"]),
            "mediaType": version["mediaType"],
            "uploadTime": version["createTime"],
            "updateTime": version["updateTime"],
        }
        for image, package in _packages(call)
        for digest, version in package["versions"].items()
    ]


@handles(f"{REPOSITORIES}.dockerImages.list", "artifactregistry.dockerimages.list")
def list_images(call: Call) -> Json:
    """List all versions of all images of a repository."""
    return {"dockerImages": _images(call)}


@handles(f"{REPOSITORIES}.dockerImages.get", "artifactregistry.dockerimages.get")
def get_image(call: Call) -> Json:
    """Describe an image by its digest, or by a tag."""
    wanted = _part(call, "image")
    for image in _images(call):
        base, _, digest = image["uri"].partition("@")
        name = base.split("/", 3)[3]
        if wanted in (f"{name}@{digest}", *(f"{name}:{tag}" for tag in image["tags"])):
            return image
    raise not_found(f"Requested entity {call.resource}")
