"""Cloud Run's public names: both URLs of a service, and those of its tags."""

from __future__ import annotations

import hashlib

# https://cloud.google.com/run/docs/triggering/https-request#deterministic: SERVICE-NUMBER.REGION.run.app;
# the older form has a hash and a short code of the region.
DIRECTIONS = {
    "northamerica": "n",
    "southamerica": "r",
    "us": "u",
    "europe": "e",
    "asia": "a",
    "australia": "t",
    "me": "m",
    "africa": "f",
}
TAG = "---"


def region_code(region: str) -> str:
    """Return a region's code: ew for europe-west1, uc for us-central1, and a number from the second on."""
    continent, _, rest = region.partition("-")
    number = rest[-1] if rest[-1:].isdigit() and rest[-1] != "1" else ""
    return f"{DIRECTIONS.get(continent, continent[0])}{rest[0]}{number}"


def hosts(service: str, number: str, region: str, tag: str = "") -> tuple[str, str]:
    """Return a service's host names, the one with the project's number first."""
    prefix = f"{tag}{TAG}" if tag else ""
    digest = int(hashlib.sha256(f"{number}/{region}".encode()).hexdigest(), 16)
    letters = "".join("abcdefghijklmnopqrstuvwxyz234567"[digest >> 5 * i & 31] for i in range(10))
    return (
        f"{prefix}{service}-{number}.{region}.run.app",
        f"{prefix}{service}-{letters}-{region_code(region)}.a.run.app",
    )
