"""The rules that settings keep, each a function that says what is wrong, or None.

copier.yml asks by the same rules; a test of the template holds both against each other.
"""

from __future__ import annotations

import re

# Anybody can open an account there, so such a domain is everybody.
PUBLIC_MAIL_DOMAINS = frozenset(
    [
        "aol.com",
        "fastmail.com",
        "gmail.com",
        "gmx.at",
        "gmx.ch",
        "gmx.com",
        "gmx.de",
        "gmx.net",
        "googlemail.com",
        "hotmail.com",
        "icloud.com",
        "live.com",
        "mac.com",
        "mail.com",
        "mail.ru",
        "me.com",
        "msn.com",
        "outlook.com",
        "pm.me",
        "proton.me",
        "protonmail.com",
        "qq.com",
        "t-online.de",
        "web.de",
        "yahoo.com",
        "yandex.com",
        "yandex.ru",
        "zoho.com",
        "126.com",
        "163.com",
    ]
)
SERVICE_ACCOUNTS = ".gserviceaccount.com"
# https://cloud.google.com/sql/docs/postgres/quotas: max_connections by the instance's memory
SHARED_CORE_CONNECTIONS = {"db-f1-micro": 25, "db-g1-small": 50}
CONNECTIONS_BY_GIB = ((3.75, 100), (6, 200), (7.5, 400), (15, 500), (30, 600), (60, 800), (120, 1000))
# Microsoft Entra ID, of the world and of the clouds apart; sts.windows.net signs tokens of version 1.
ENTRA_HOST = (
    r"https://(login\.microsoftonline\.(com|us)|login\.partner\.microsoftonline\.cn|sts\.windows\.net)[:/]"
)
ENTRA_TENANT = r"https://login\.[a-z.]+/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/v2\.0"
PERSONAL_ACCOUNTS = "9188040d-6c67-4c5b-b112-36a304b66dad"  # the tenant of all of them
RESERVED_CONNECTIONS = 3  # Postgres keeps them for superusers
LEAST_POOL = 4  # connections a process needs: one holds the lock while the schema is created
MOST_POOL = 10
# MiB by number of CPUs. One and two: the least that was tried, under load (tests/test_stack.py and
# tests/test_variants.py of the template's repository). Four and more: Cloud Run's own rule,
# https://cloud.google.com/run/docs/configuring/services/cpu
LEAST_MEMORY = {1: 512, 2: 768, 4: 2048, 6: 4096, 8: 4096}
MOST_MEMORY = {1: 4096, 2: 8192, 4: 16384, 6: 24576, 8: 32768}


def service_problem(service: str) -> str | None:
    """Say what is wrong with a Cloud Run service's name, or None.

    26 characters, where Cloud Run takes 49: the service account's name is made of it, and the
    address TAG---SERVICE-PROJECTNUMBER of a candidate must fit into 63.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,24}[a-z0-9]", service):
        return (
            f"service is {service!r}: give 2 to 26 lower-case letters, digits and hyphens, the "
            "first a letter, the last no hyphen"
        )
    if "google" in service or service.startswith("goog"):
        return f"service is {service!r}: the bucket is named after it and may not hold 'google'"
    return None


def google_project_problem(project: str) -> str | None:
    """Say what is wrong with a Google Cloud project id, or None."""
    if re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", project):
        return None
    return (
        f"google_project is {project!r}: give the project's id (not its name or number), 6 to 30 "
        "lower-case letters, digits and hyphens; `gcloud projects list` shows it"
    )


def region_problem(region: str) -> str | None:
    """Say what is wrong with a region's name, or None."""
    if re.fullmatch(r"[a-z]+-[a-z]+[0-9]+", region):
        return None
    return f"region is {region!r}: give one such as europe-west1; `gcloud run regions list` shows them"


def allowed_problem(entry: str) -> str | None:
    """Say why this domain or address may not be let in, or None."""
    local, at, domain = entry.rpartition("@")
    if "*" in entry:
        return f"allowed holds {entry!r}, which would let everybody in: name your domains"
    if at and not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+", local):
        return f"allowed holds {entry!r}, which is no address: give one such as ada@example.com"
    if not re.fullmatch(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", domain):
        return (
            f"allowed holds {entry!r}: give a domain such as example.com, in lower case, or an "
            "address such as ada@example.com"
        )
    if not at and domain in PUBLIC_MAIL_DOMAINS:
        return (
            f"allowed holds {entry!r}, where anybody can open an account: "
            f"name the addresses one by one, such as ada@{entry}"
        )
    return None


def issuer_problem(url: str) -> str | None:
    """Say what is wrong with an OpenID Connect issuer's URL, or None."""
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]+)?(/[^\s?#]*)?", url):
        return (
            f"oidc_issuer_url is {url!r}: give the issuer's https:// URL, under which "
            "/.well-known/openid-configuration answers"
        )
    if is_entra(url) and (not re.fullmatch(ENTRA_TENANT, url) or PERSONAL_ACCOUNTS in url):
        return (
            f"oidc_issuer_url is {url!r}: give your own tenant's, https://login.microsoftonline.com/"
            "TENANT_ID/v2.0; every other is of several tenants, of anybody's account, or of older tokens"
        )
    return None


def is_entra(url: str) -> bool:
    """Say whether an issuer is Microsoft Entra ID."""
    return re.match(ENTRA_HOST, url.lower()) is not None


def memory_problem(memory: str, cpu: int) -> str | None:
    """Say why this memory does not do for so many CPUs, or None."""
    if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi)", memory):
        return f"memory is {memory!r}: give a number with Mi or Gi, such as 512Mi or 2Gi"
    if cpu not in LEAST_MEMORY:
        return None  # said of cpu itself
    mib = int(memory[:-2]) * (1024 if memory.endswith("Gi") else 1)
    if mib < LEAST_MEMORY[cpu]:
        return (
            f"memory is {memory!r}: with {cpu} CPU give at least {LEAST_MEMORY[cpu]}Mi; with less it "
            "was never tried, or Cloud Run refuses it"
        )
    if mib > MOST_MEMORY[cpu]:
        return f"memory is {memory!r}: Cloud Run gives at most {MOST_MEMORY[cpu]}Mi with {cpu} CPU"
    return None


def tier_connections(tier: str) -> int:
    """Return how many connections a Cloud SQL tier allows by default; 0 for an unknown tier."""
    if tier in SHARED_CORE_CONNECTIONS:
        return SHARED_CORE_CONNECTIONS[tier]
    custom = re.fullmatch(r"db-custom-[0-9]+-([0-9]+)", tier)
    gib = int(custom[1]) / 1024 if custom else 0
    return max((limit for least, limit in CONNECTIONS_BY_GIB if gib >= least), default=0)


def connections_problem(tier: str, workers: int, max_instances: int) -> str | None:
    """Say why so many processes are too many for the tier's connections, or None."""
    limit = tier_connections(tier)
    if not limit:
        return (
            f"database_tier is {tier!r}: give db-f1-micro, db-g1-small or db-custom-CPUS-MEMORY "
            "with the memory in MiB, such as db-custom-1-3840"
        )
    needed = LEAST_POOL * workers * (max_instances + 1) + RESERVED_CONNECTIONS
    if needed <= limit:
        return None
    return (
        f"max_instances is {max_instances}: with {workers} processes an instance, {LEAST_POOL} "
        f"connections a process and one more instance while deploying that is {needed} connections, "
        f"and the Cloud SQL tier {tier} allows {limit}: choose a larger tier or fewer instances"
    )
