"""Programs with MLflow's own client that sign in by the project's client package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

RUN = """
import sys, mlflow
mlflow.set_experiment("programs")
with mlflow.start_run() as run:
    mlflow.log_metric("m", 0.5)
print(run.info.run_id)
"""
# Processes and threads, each logs until the time is over, and tells how far it came. The forks come first,
# with a token at hand: MLflow's client imports something in each request, and an import's lock that another
# thread holds at a fork is held in the new process for good.
TRAINING = """
import json, multiprocessing, sys, threading, time
import mlflow

SECONDS, run = float(sys.argv[1]), sys.argv[2]

def train(name, threads, queue):
    counts, failed = {}, []
    client, end = mlflow.MlflowClient(), time.monotonic() + SECONDS
    def log(key):
        try:
            while time.monotonic() < end:
                step = counts.get(key, 0)
                client.log_metric(run, key, step, step=step)
                counts[key] = step + 1
                time.sleep(0.1)
        except Exception as error:
            failed.append(str(error))
    working = [threading.Thread(target=log, args=(f"{name}-{n}",)) for n in range(threads)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    queue.put((counts, failed))

if __name__ == "__main__":
    queue = multiprocessing.get_context("spawn").Queue()
    mlflow.MlflowClient().log_metric(run, "before", 1.0)
    main = threading.Thread(target=train, args=("main", 16, queue))
    children = [
        multiprocessing.get_context(method).Process(target=train, args=(f"{method}{n}", 3, queue))
        for method, number in (("fork", 4), ("spawn", 2))
        for n in range(number)
    ]
    for child in children[:4]:
        child.start()
    main.start()
    time.sleep(1)
    for child in children[4:]:
        child.start()
    print(json.dumps([queue.get(timeout=SECONDS + 60) for _ in range(len(children) + 1)]))
    for child in children:
        child.join()
    main.join()
"""
# A spawned process imports the program's file.
TRAINING_FILE = """
import os, runpy, sys, tempfile
path = os.path.join(tempfile.mkdtemp(), "training.py")
open(path, "w").write(os.environ["TRAINING"])
os.execv(sys.executable, [sys.executable, path, *sys.argv[1:]])
"""


def install_client(source: Path, folder: Path) -> tuple[Path, Path]:
    """Build the client package and install it by itself.

    Args:
        source: the project's client/.
        folder: where to.

    Returns:
        The folder for PYTHONPATH, and the wheel.
    """
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True)
    return folder / "site", wheel


def python(script: str, environment: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    """Run a program, which must end with this exit code; return its last line, of its errors if any."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stderr if code else done.stdout).strip().splitlines()[-1]
