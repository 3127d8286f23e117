"""`python -m emulator`: run the emulator until it is interrupted."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
from pathlib import Path

from emulator import Emulator


def main() -> None:
    """Start, print the environment for gcloud, and wait for SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; a free one by default")
    parser.add_argument("--state", type=Path, required=True, help="folder that holds the state")
    parser.add_argument("--project", default="emulated-project")
    parser.add_argument("--number", default="123456789012", help="the project's number")
    parser.add_argument("--owner", default="owner@example.com", help="who gcloud is signed in as")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Emulator(
        options.state,
        port=options.port,
        project=options.project,
        number=options.number,
        owner=options.owner,
    ) as emulator:
        for name, value in emulator.environment().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
