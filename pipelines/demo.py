"""The whole story: photos in, adapters tuned, measured, registered, promoted and served.

    python -m pipelines.demo              # DVC brings the stages up to date
    python -m pipelines.demo --dagster    # Dagster does

Starts the MLflow server of params.yaml unless it is up, brings its stages up to date, promotes what
passes the gate, serves the champions and asks for one picture over HTTP.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from insitu.params import Params
from insitu.processes import PARENT
from pipelines import _step
from pipelines._paths import METRICS, REGISTERED, SUBJECTS, TUNED_PAGE
from pipelines._targets import JOB, TARGETS

ANSWER = Path("reports/answer.png")
PORT = 8321
PATIENCE_S = 120.0


DVC = ("dvc", "repro", *TARGETS)
DAGSTER = ("dagster", "job", "execute", "-m", "orchestration.definitions", "-j", JOB)


def main(params: Params, report: _step.Report, stages: tuple[str, ...] = DVC) -> None:
    # Stages say `python`: this one, whether or not its environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tracking = params.registry.tracking_uri
    with running([sys.executable, "-m", "insitu.cli", "mlflow"], f"{tracking}/health", "mlflow"):
        run(*stages)
        run("insitu.cli", "registry", "promote", allowed=(0, 1))
        receipt = REGISTERED / f"{params.tune.method}.json"
        names = list(json.loads(receipt.read_text()))
        serve = [sys.executable, "-m", "insitu.cli", "serve", "--port", str(PORT)]
        address = f"http://127.0.0.1:{PORT}"
        with running(serve, f"{address}/readyz", "serve"):
            ask(address, names, params)
    for name, found in json.loads(METRICS.read_text()).items():
        told = ", ".join(
            f"{way} {f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"
            for way, f in found.items()
        )
        print(f"{name}: {told}")
    print(f"Open {TUNED_PAGE / 'index.html'} and reports/nano/index.html")


def run(module: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a Python module with its own output; end with its status if that is not allowed."""
    done = subprocess.run([sys.executable, "-m", module, *arguments])
    if done.returncode not in allowed:
        sys.exit(done.returncode)


@contextmanager
def running(command: list[str], health: str, name: str) -> Iterator[None]:
    """A server that answers at `health`; started, and ended afterwards, unless it is up already."""
    if _answers(health):
        yield
        return
    log = Path(".insitu") / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        env = os.environ | {PARENT: str(os.getpid())}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        try:
            _wait(process, health, name, log)
            yield
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], health: str, name: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not _answers(health):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{name} did not start; see {log}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(address: str, names: list[str], params: Params) -> None:
    """Ask for the first champion in a held-out scene, and keep the picture."""
    from insitu.client import Client, Refused
    from insitu.evaluation.placement import Reference, places
    from insitu.records import read
    from insitu.records.subjects import SubjectPhoto

    place = places(1, size=params.evaluate.size, seed=params.seed)[0]
    with Client(address) as client:
        for name in names:
            photos = list(read(SUBJECTS / name.partition(".")[2], SubjectPhoto))
            box = place.box(Reference.of(photos).proportions)
            try:
                found = client.place(name, place.image, [{"box": box}])
            except Refused as error:
                print(f"{name}: {error.why}")  # not promoted
                continue
            ANSWER.write_bytes(found.png)
            print(f"{found.adapter}, version {found.version} answered: {ANSWER}")
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="From photos to a served answer.")
    parser.add_argument("--dagster", action="store_true", help="run the stages with Dagster")
    chosen = DAGSTER if parser.parse_args().dagster else DVC
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
