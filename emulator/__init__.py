"""An emulated Google Cloud that the real gcloud talks to through an HTTPS proxy. README.md says more."""

from emulator.emulator import Emulator

__all__ = ["Emulator"]
