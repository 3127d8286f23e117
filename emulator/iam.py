"""The one access control of all resources: policies in the store, enforced on every call."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from emulator.errors import GoogleError, NotModelledError
from emulator.roles import ROLES, holds
from emulator.store import Store
from emulator.web import Json

MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(user|serviceAccount|group):[^@\s]+@[^@\s]+|domain:\S+"
    r"|project(Owner|Editor|Viewer):[a-z0-9-]+"
    r"|(principal|principalSet)://iam\.googleapis\.com/\S+"
)
ANONYMOUS = "allUsers"
AGENT = re.compile(r"@(gcp-sa-|serverless-robot-prod\.)")  # Google's own accounts, which no project has


class Access:
    """Policies by resource name, such as `projects/P`, `projects/P/secrets/S` or `b/BUCKET`."""

    def __init__(self, store: Store) -> None:
        """Work on the policies of a store."""
        self._store = store

    def policy(self, resource: str) -> Json:
        """Return a resource's policy; without bindings when none was set."""
        policy = dict(self._store["policies"].get(resource, {"version": 1}))
        return {**policy, "etag": _etag(policy)}

    def set_policy(self, resource: str, policy: Json) -> Json:
        """Set a resource's policy and return it.

        Raises:
            GoogleError: the etag is of an older policy, or a member or a service account is unknown.
            NotModelledError: a role that the emulator does not know, or a condition.
        """
        if policy.get("etag") and policy["etag"] != self.policy(resource)["etag"]:
            raise GoogleError(
                409,
                "There were concurrent policy changes. Please retry the whole read-modify-write with "
                "exponential backoff.",
                "ABORTED",
            )
        bindings = [binding for binding in policy.get("bindings", []) if binding.get("members")]
        for binding in bindings:
            self._check_binding(binding)
        kept = [
            {"role": b["role"], "members": sorted(set(b["members"]))}
            for b in sorted(bindings, key=lambda b: str(b["role"]))
        ]
        self._store["policies"][resource] = {"version": 1, **({"bindings": kept} if kept else {})}
        return self.policy(resource)

    def _check_binding(self, binding: Json) -> None:
        if binding["role"] not in ROLES:
            raise NotModelledError(f"the role {binding['role']}")
        if binding.get("condition"):
            raise NotModelledError("conditions of role bindings")
        for member in binding["members"]:
            if member.startswith("deleted:"):
                continue
            if not MEMBER.fullmatch(member):
                raise GoogleError(400, f"The member {member} is of an unknown type.")
            kind, _, address = member.partition(":")
            if kind in ("principal", "principalSet"):
                self._check_pool(address)
            ours = address.endswith(".iam.gserviceaccount.com") and not AGENT.search(address)
            if kind == "serviceAccount" and ours and address not in self._store["service_accounts"]:
                raise GoogleError(400, f"Service account {address} does not exist.")

    def _check_pool(self, address: str) -> None:
        name = "/".join(address.removeprefix("//iam.googleapis.com/").split("/")[:6])
        if name not in {pool["name"] for pool in self._store["pools"].values()}:
            raise GoogleError(400, f"Identity Pool does not exist ({name}).")

    def grant(self, resource: str, role: str, member: str) -> None:
        """Add a member to a role, as Google itself does for its own agents."""
        policy = self.policy(resource)
        bindings = policy.setdefault("bindings", [])
        bindings.append({"role": role, "members": [member]})
        merged: dict[str, set[str]] = {}
        for binding in bindings:
            merged.setdefault(binding["role"], set()).update(binding["members"])
        self.set_policy(resource, {"bindings": [{"role": r, "members": [*m]} for r, m in merged.items()]})

    def bury(self, member: str, uid: str) -> None:
        """Name a deleted member so in every policy: one made anew under its name is another."""
        for policy in self._store["policies"].values():
            for binding in policy.get("bindings", []):
                if member in binding["members"]:
                    left = {*binding["members"]} - {member} | {f"deleted:{member}?uid={uid}"}
                    binding["members"] = sorted(left)

    def forget(self, resource: str) -> None:
        """Drop the policy of a deleted resource, and of all below it."""
        policies = self._store["policies"]
        for name in [name for name in policies if name == resource or name.startswith(f"{resource}/")]:
            del policies[name]

    def allows(self, principals: set[str], permission: str, resource: str) -> bool:
        """Say whether one of the principals has a permission on a resource or on what it is in."""
        return any(
            holds(binding["role"], permission) and self._is_one_of(principals, binding["members"])
            for name in self._with_parents(resource)
            for binding in self._store["policies"].get(name, {}).get("bindings", [])
        )

    def _is_one_of(self, principals: set[str], members: list[str]) -> bool:
        """Members may be all who hold a basic role in a project, as in `projectEditor:P`."""
        for member in members:
            if member in principals:
                return True
            kind, _, project = member.partition(":")
            role = {"projectOwner": "owner", "projectEditor": "editor", "projectViewer": "viewer"}.get(kind)
            holders = (
                self._store["policies"].get(f"projects/{project}", {}).get("bindings", []) if role else []
            )
            if any(b["role"] == f"roles/{role}" and principals & set(b["members"]) for b in holders):
                return True
        return False

    def _with_parents(self, resource: str) -> list[str]:
        if resource.startswith("b/"):
            bucket = self._store["buckets"].get(resource[2:], {})
            return [resource, f"projects/{bucket.get('project', '')}"]
        parts = resource.split("/")
        return ["/".join(parts[:count]) for count in range(2, len(parts) + 1)]


def everybody(principal: str) -> set[str]:
    """Return the members that a principal is: itself, and the wide ones.

    One from a workload identity pool comes with its sets, as federation.exchange() says them, and is no
    authenticated user: https://cloud.google.com/iam/docs/principals-overview
    """
    if principal == ANONYMOUS:
        return {ANONYMOUS}
    if principal.startswith("principal:"):
        return {ANONYMOUS, *principal.split()}
    return {principal, ANONYMOUS, "allAuthenticatedUsers", f"domain:{principal.rpartition('@')[2]}"}


def _etag(policy: Json) -> str:
    digest = hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()
    # of hexadecimal digits: the same in base64 and base64url, which gcloud answers in
    return base64.b64encode(digest[:12].encode()).decode()
