"""Cloud Build: cloudbuild.yaml submitted with this tree, and its log shown while it grows.

By Google's own client, as whoever is signed in to gcloud: no second sign-in for programs is needed.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.devtools import cloudbuild_v1
from google.oauth2.credentials import Credentials
from google.protobuf.json_format import ParseDict, ParseError
from requests import RequestException, Response

from deployment.cloud import image
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError

STEP = 1  # seconds between two looks at the build
LOST = 5  # looks in a row that may fail: the build itself goes on
TIMEOUT = 60  # seconds for one request
STORAGE = "https://storage.googleapis.com"
Say = Callable[[str], None]
Status = cloudbuild_v1.Build.Status
RUNNING = (Status.STATUS_UNKNOWN, Status.PENDING, Status.QUEUED, Status.WORKING)


class CloudBuild:
    """Cloud Build for one deployment.

    Args:
        resources: the names and settings.
        token: an access token of whoever builds.
        say: shows a line.
    """

    def __init__(self, resources: Resources, token: str, say: Say) -> None:
        self.resources = resources
        self.say = say
        credentials = Credentials(token=token)  # type: ignore[no-untyped-call, unused-ignore]
        self.session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call, unused-ignore]
        # REST: it takes the same proxies and certificates as gcloud, gRPC others.
        self.client = cloudbuild_v1.CloudBuildClient(credentials=credentials, transport="rest")

    def build(self, name: str) -> None:
        """Build the image of this tree and put it into Artifact Registry.

        Raises:
            DeploymentError: Google refused, or the build failed; its log was shown.
        """
        try:
            source = f"source/{name.rpartition(':')[2]}.tgz"
            self._upload(source, archive(image.HERE))
            wanted = request(self.resources, image.HERE / "cloudbuild.yaml", name, source)
            project = self.resources.settings.google_project
            # Not sent twice: a build whose answer was lost may be running.
            operation = self.client.create_build(project_id=project, build=wanted, retry=None)
            build = self._follow(project, operation.metadata.build.id)
            self.session.delete(self._object(source), timeout=TIMEOUT)
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            raise DeploymentError(f"Cloud Build refused or did not answer: {error}") from None
        if build.status != Status.SUCCESS:
            detail = f": {build.status_detail}" if build.status_detail else ""
            raise DeploymentError(f"the build ended with {build.status.name}{detail}; {build.log_url}")

    def _upload(self, source: str, content: bytes) -> None:
        bucket = self.resources.build_bucket
        self.say(f"uploading {len(content) / 1024:.0f} KiB to gs://{bucket}/{source}")
        url = f"{STORAGE}/upload/storage/v1/b/{bucket}/o"
        query = {"uploadType": "media", "name": source}
        _checked(self.session.post(url, params=query, data=content, timeout=TIMEOUT))

    def _follow(self, project: str, identifier: str) -> Any:
        """Show the log until the build has ended, and return the build."""
        shown = lost = 0
        while True:
            try:
                # In this order: what is written before the end is read after it is known.
                build = self.client.get_build(project_id=project, id=identifier, timeout=TIMEOUT)
                shown += self._show(f"log-{identifier}.txt", shown)
                lost = 0
            except (GoogleAPIError, RequestException):
                lost += 1
                if lost == LOST:
                    raise
            else:
                if build.status not in RUNNING:
                    return build
            time.sleep(STEP)

    def _show(self, log: str, start: int) -> int:
        """Show the log from a byte on; return how many bytes that were. Lines that have not ended wait."""
        answer = self.session.get(
            self._object(log),
            params={"alt": "media"},
            headers={"Range": f"bytes={start}-"},
            timeout=TIMEOUT,
        )
        if answer.status_code in (404, 416):  # no log yet, nothing new
            return 0
        _checked(answer)
        content = answer.content if answer.status_code == 206 else answer.content[start:]  # noqa: PLR2004
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.decode(errors="replace").splitlines():
            self.say(f"  {line}")
        return len(whole)

    def _object(self, name: str) -> str:
        return f"{STORAGE}/storage/v1/b/{self.resources.build_bucket}/o/{quote(name, safe='')}"


def archive(folder: Path) -> bytes:
    """Return what the image is made of as a .tgz, the same bytes for the same tree."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in image.files(folder):
            member = tar.gettarinfo(path, str(path.relative_to(folder)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = 0
            with path.open("rb") as file:
                tar.addfile(member, file)
    return buffer.getvalue()


def request(resources: Resources, file: Path, name: str, source: str) -> Any:
    """Return the build that cloudbuild.yaml describes, of a source in the builds' bucket.

    Raises:
        DeploymentError: the file holds what Cloud Build does not know.
    """
    build = cloudbuild_v1.Build()
    try:
        ParseDict(yaml.safe_load(file.read_text(encoding="utf-8")), cloudbuild_v1.Build.pb(build))
    except (OSError, ParseError, yaml.YAMLError) as error:
        raise DeploymentError(f"{file.name} is no build: {error}") from None
    images = resources.settings.images
    values = {"_IMAGE": name, "_PYTHON_IMAGE": images.python, "_OAUTH2_PROXY_IMAGE": images.oauth2_proxy}
    for key, value in values.items():
        build.substitutions[key] = value
    build.source = cloudbuild_v1.Source(
        storage_source=cloudbuild_v1.StorageSource(bucket=resources.build_bucket, object_=source)
    )
    return build


def _checked(answer: Response) -> None:
    """Raise RequestException, with Google's own words, unless the answer is good."""
    if not answer.ok:
        reason = answer.text.strip()
        with contextlib.suppress(ValueError, KeyError, TypeError):
            reason = answer.json()["error"]["message"]
        raise RequestException(f"{answer.status_code} {reason}")
