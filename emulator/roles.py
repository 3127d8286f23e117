"""The roles that the emulator knows, with those of their permissions that its methods ask for.

From https://cloud.google.com/iam/docs/roles-permissions. A pattern's `*` stands for anything.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_READ = ("*.get", "*.list", "*.getIamPolicy")
_INVOKE = ("run.jobs.run", "run.routes.invoke")
_OBJECT_READ = ("storage.objects.get", "storage.objects.list")
_REGISTRY_READ = (
    *(
        f"artifactregistry.{kind}.{verb}"
        for kind in ("dockerimages", "packages", "tags", "versions")
        for verb in ("get", "list")
    ),
    "artifactregistry.repositories.downloadArtifacts",
    "artifactregistry.repositories.get",
    "artifactregistry.repositories.list",
)
_REGISTRY_WRITE = (
    *_REGISTRY_READ,
    "artifactregistry.packages.update",
    "artifactregistry.repositories.uploadArtifacts",
    "artifactregistry.tags.create",
    "artifactregistry.tags.update",
)
_LOG_READ = ("logging.logEntries.list",)

ROLES: dict[str, tuple[str, ...]] = {
    # The basic roles, less what LACKS names.
    "roles/owner": ("*",),
    "roles/editor": ("*",),
    "roles/viewer": (*_READ, *_LOG_READ),
    "roles/artifactregistry.admin": ("artifactregistry.*",),
    "roles/artifactregistry.reader": _REGISTRY_READ,
    "roles/artifactregistry.repoAdmin": (
        *_REGISTRY_WRITE,
        "artifactregistry.packages.delete",
        "artifactregistry.repositories.deleteArtifacts",
        "artifactregistry.tags.delete",
        "artifactregistry.versions.delete",
    ),
    "roles/artifactregistry.writer": _REGISTRY_WRITE,
    "roles/cloudbuild.builds.builder": (
        *_REGISTRY_WRITE,
        "cloudbuild.*",
        "logging.logEntries.create",
        "logging.logEntries.list",
        "resourcemanager.projects.get",
        "storage.buckets.create",
        "storage.buckets.get",
        "storage.buckets.list",
        "storage.objects.*",
    ),
    "roles/cloudbuild.builds.editor": ("cloudbuild.*", "resourcemanager.projects.get"),
    "roles/cloudbuild.builds.viewer": ("cloudbuild.builds.get", "cloudbuild.builds.list"),
    "roles/cloudsql.admin": ("cloudsql.*",),
    "roles/cloudsql.client": ("cloudsql.instances.connect", "cloudsql.instances.get"),
    "roles/iam.serviceAccountAdmin": (
        "iam.serviceAccounts.create",
        "iam.serviceAccounts.delete",
        "iam.serviceAccounts.get",
        "iam.serviceAccounts.getIamPolicy",
        "iam.serviceAccounts.list",
        "iam.serviceAccounts.setIamPolicy",
        "iam.serviceAccounts.update",
    ),
    "roles/iam.serviceAccountOpenIdTokenCreator": ("iam.serviceAccounts.getOpenIdToken",),
    "roles/iam.serviceAccountTokenCreator": (
        "iam.serviceAccounts.getAccessToken",
        "iam.serviceAccounts.getOpenIdToken",
        "iam.serviceAccounts.signBlob",
        "iam.serviceAccounts.signJwt",
    ),
    "roles/iam.serviceAccountUser": (
        "iam.serviceAccounts.actAs",
        "iam.serviceAccounts.get",
        "iam.serviceAccounts.list",
        "resourcemanager.projects.get",
    ),
    "roles/iam.workloadIdentityPoolAdmin": ("iam.workloadIdentityPool*",),
    "roles/iam.workloadIdentityUser": (
        "iam.serviceAccounts.get",
        "iam.serviceAccounts.getAccessToken",
        "iam.serviceAccounts.getOpenIdToken",
        "iam.serviceAccounts.list",
    ),
    "roles/logging.logWriter": ("logging.logEntries.create",),
    "roles/logging.viewer": (*_LOG_READ, "resourcemanager.projects.get"),
    "roles/resourcemanager.projectIamAdmin": (
        "resourcemanager.projects.get",
        "resourcemanager.projects.getIamPolicy",
        "resourcemanager.projects.setIamPolicy",
    ),
    "roles/run.admin": ("resourcemanager.projects.get", "run.*"),
    "roles/run.developer": (
        "resourcemanager.projects.get",
        "run.configurations.*",
        "run.executions.*",
        "run.jobs.[!s]*",  # not setIamPolicy
        "run.operations.*",
        "run.revisions.*",
        "run.routes.*",
        "run.services.[!s]*",
    ),
    "roles/run.invoker": _INVOKE,
    "roles/run.viewer": ("run.*.get", "run.*.list", "run.*.getIamPolicy"),
    "roles/secretmanager.admin": ("secretmanager.*",),
    "roles/secretmanager.secretAccessor": ("secretmanager.versions.access",),
    "roles/secretmanager.secretVersionAdder": ("secretmanager.versions.add",),
    "roles/secretmanager.viewer": (
        "secretmanager.secrets.get",
        "secretmanager.secrets.list",
        "secretmanager.versions.get",
        "secretmanager.versions.list",
    ),
    "roles/serviceusage.serviceUsageAdmin": ("serviceusage.*",),
    "roles/serviceusage.serviceUsageConsumer": (
        "serviceusage.services.get",
        "serviceusage.services.list",
        "serviceusage.services.use",
    ),
    "roles/storage.admin": ("storage.*",),
    "roles/storage.objectAdmin": ("storage.objects.*",),
    "roles/storage.objectCreator": ("storage.objects.create",),
    "roles/storage.objectUser": ("storage.objects.[!sg]*", "storage.objects.get"),
    "roles/storage.objectViewer": _OBJECT_READ,
    "roles/storage.legacyBucketReader": ("storage.buckets.get", "storage.objects.list"),
    "roles/storage.legacyBucketOwner": (
        "storage.buckets.[!cd]*",  # neither create nor delete
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.list",
    ),
    "roles/storage.legacyObjectReader": ("storage.objects.get",),
    "roles/storage.legacyObjectOwner": ("storage.objects.get", "storage.objects.update"),
}
# Impersonation is of no basic role, and objects are theirs by the bucket's own policy alone.
_NONE = ("iam.serviceAccounts.get*Token", "iam.serviceAccounts.sign*", "storage.objects.*")
LACKS: dict[str, tuple[str, ...]] = {
    "roles/owner": _NONE,
    "roles/editor": (*_NONE, "*.setIamPolicy", "run.routes.invoke", "secretmanager.versions.access"),
    "roles/viewer": _NONE,
}


def holds(role: str, permission: str) -> bool:
    """Say whether a role has a permission."""
    if any(fnmatchcase(permission, pattern) for pattern in LACKS.get(role, ())):
        return False
    return any(fnmatchcase(permission, pattern) for pattern in ROLES.get(role, ()))
