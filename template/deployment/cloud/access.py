"""Who may enter, changed while the service runs: settings, the proxy's secret, a revision of its image.

Interrupted and run again, it completes.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from deployment.cloud import oauth_client
from deployment.cloud.resources import Resources
from deployment.cloud.secret import Secrets
from deployment.cloud.service import Service
from deployment.errors import DeploymentError
from deployment.settings import Settings
from deployment.smoke import Step

Say = Callable[[str], None]


def listing(service: Service, store: Secrets) -> list[str]:
    """Return who may enter by the settings, and a line more when the service does not have it so.

    Raises:
        DeploymentError: gcloud refused.
    """
    lines = list(service.resources.settings.allowed)
    found = service.find()
    if found is None or not found.serving:
        return [*lines, "not in effect: the service is not deployed"]
    current = store.needed(service.resources.proxy_secret)
    same = _configuration(service, current).strip() == current
    if same and found.serves(service.made_of(service.serving_image(found), found)):
        return lines
    return [*lines, "not in effect: the service has other settings; `invoke secrets`, then `invoke deploy`"]


def change(service: Service, file: Path, add: Sequence[str], remove: Sequence[str], say: Say) -> list[Step]:
    """Let in, shut out, and prove the service; return the proof's steps.

    Args:
        service: deployed or not; when it is not, the settings alone change.
        file: invoke.yaml.
        add: domains and addresses.
        remove: some that are in the settings.
        say: shows a line.

    Raises:
        SettingsError: the settings would not hold.
        DeploymentError: one to remove is not there, or whoever does this would be shut out, and nothing was
            changed; or gcloud refused, or the new revision does not serve: the old one does then.
    """
    settings = service.resources.settings
    unknown = [entry for entry in remove if entry not in settings.allowed]
    if unknown:
        raise DeploymentError(f"{', '.join(unknown)}: not in `allowed`: {', '.join(settings.allowed)}")
    allowed = list(dict.fromkeys([*settings.allowed, *add]))
    allowed = [entry for entry in allowed if entry not in remove]
    changed = Settings.load({**dataclasses.asdict(settings), "allowed": allowed})
    found = service.find()
    if found:
        _stays(changed, service.token())
    if service.gcloud.dry:
        return []
    write(file, edited(file.read_text(encoding="utf-8"), allowed))
    say(f"allowed: {', '.join(allowed)}")
    service = Service(service.gcloud, Resources(changed), say)
    store = Secrets(service.gcloud, service.resources, say)
    current = store.read(service.resources.proxy_secret)
    if current:
        store.write(service.resources.proxy_secret, _configuration(service, current))
    if found is None or not found.serving or not current:
        say("the service is not deployed: it takes effect with `invoke secrets` and `invoke deploy`")
        return []
    return service.deploy(service.serving_image(found))


def edited(text: str, allowed: Sequence[str]) -> str:
    """Return invoke.yaml's text with another list of who may enter; all other lines stay as they are.

    Raises:
        DeploymentError: the list is written in a way that is not understood.
    """
    node = _child(_child(yaml.compose(text), "deployment"), "allowed")
    before = [str(item.value) for item in node.value]
    new = [json.dumps(entry) for entry in allowed if entry not in before]
    if node.flow_style:
        inside = ", ".join(json.dumps(entry) for entry in allowed)
        result = f"{text[: node.start_mark.index]}[{inside}]{text[node.end_mark.index :]}"
    else:
        lines = text.splitlines(keepends=True)
        last = node.value[-1].start_mark.line
        lines[last] = lines[last].rstrip("\n") + "\n"
        indent = " " * node.start_mark.column
        lines[last] += "".join(f"{indent}- {entry}\n" for entry in new)
        for item in node.value:
            if item.value not in allowed:
                line = item.start_mark.line
                lines[line] = "".join(lines[line].splitlines(keepends=True)[1:])
        result = "".join(lines)
    try:
        same = sorted(yaml.safe_load(result)["deployment"]["allowed"]) == sorted(allowed)
    except (yaml.YAMLError, TypeError):
        same = False
    if not same:
        raise DeploymentError("`allowed` in invoke.yaml is written in an unusual way: edit it by hand")
    return result


def write(file: Path, text: str) -> None:
    """Replace a file's content as a whole; nothing happens when it has it already."""
    if file.read_text(encoding="utf-8") == text:
        return
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as temporary:
            temporary.write(text)
        Path(name).chmod(file.stat().st_mode & 0o777)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def enters(settings: Settings, email: str) -> bool:
    """Say whether the proxy would let an address in."""
    domain = email.rpartition("@")[2].lower()
    emails = [entry.lower() for entry in settings.allowed_emails]
    return domain in settings.allowed_domains or email.lower() in emails


def _stays(settings: Settings, token: str) -> None:
    """Refuse to shut out who does this: the new revision is proved as them.

    Raises:
        DeploymentError: it would.
    """
    email = str(_claims(token).get("email", "")) if token else ""
    if email and not enters(settings, email):
        raise DeploymentError(
            f"you are {email}, and would not enter any more: the new revision is proved as you. Nothing "
            "was changed"
        )


def _configuration(service: Service, current: str) -> str:
    settings, url = service.resources.settings, service.resources.url(service.number())
    return oauth_client.configuration(settings, url, None, current, rotate=False)


def _claims(token: str) -> dict[str, Any]:
    """Return what a token of gcloud's says; the service verifies it."""
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def _child(node: Any, name: str) -> Any:
    return next(value for key, value in node.value if key.value == name)
