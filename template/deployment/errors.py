"""The one error that tasks show."""

from __future__ import annotations


class DeploymentError(Exception):
    """What went wrong, in a sentence that says what to do. Tasks print it and exit with 1."""
