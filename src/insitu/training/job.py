"""A training run as a file, for runs of several processes: what each of them has to know.

python -m insitu.training.job JOB.json     # one process, started by `launch`
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.processes import die_with_parent
from insitu.training.recipe import Devices, Recipe, Watch

JOB, REQUESTS, REFUSAL = "job.json", "requests", "refusal.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs: plain values, paths that all nodes share.

    Attributes:
        method, settings: by name, as in params.yaml.
        checkpoint: path and revision of the base, and the sizes that it is used at.
        device: auto, cpu or cuda.
        precision: of the base, as `backbones.precision.Precision.of` takes it.
        encoded, facts: the examples' folder, and what it must have been encoded from.
        work: where checkpoints, curve and weights go; requests lie in it.
        tracking_uri, run: where the first process logs; None = nowhere.
        benchmark: a saved `Benchmark`, by which the first process scores pictures; None = off.
        threads: of each process on a CPU; None = as torch has it.
        start: the file of the weights that it starts from; None = from nothing.
    """

    method: str
    settings: dict[str, Any]
    checkpoint: dict[str, Any]
    device: str
    precision: dict[str, Any]
    encoded: str
    facts: dict[str, str]
    recipe: Recipe
    devices: Devices
    watch: Watch
    work: str
    tracking_uri: str | None = None
    run: tuple[str, str] | None = None
    benchmark: str | None = None
    threads: int | None = None
    start: str | None = None

    def write(self, path: Path) -> None:
        replace_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Job":
        told = json.loads(path.read_text())
        told |= {
            "recipe": Recipe.of(told["recipe"]),
            "devices": Devices(**told["devices"]),
            "watch": Watch(**told["watch"]),
        }
        return cls(**told)


def main(path: Path) -> int:
    """What one process does."""
    die_with_parent()
    job = Job.read(path)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        _work(job)
    except UserError as error:
        # Others may fail because of it, and sooner; so the words go to whoever launched them.
        told = {"given": error.given, "why": error.why, "todo": error.todo}
        replace_text(Path(job.work) / REFUSAL, json.dumps(told))
        return 2
    return 0


def _work(job: Job) -> None:
    from insitu.training.encoding import Encoded

    # What it refuses, it refuses before the model libraries and the base are loaded.
    encoded = Encoded.open(job.encoded, job.facts)

    import diffusers
    import transformers
    from safetensors.torch import load_file

    from insitu.backbones import bases
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision
    from insitu.methods import find
    from insitu.registry.store import Store
    from insitu.training import requests
    from insitu.training.fit import fit
    from insitu.training.progress import quiet
    from insitu.training.run_logger import RunLogger

    work = Path(job.work)
    device = choose_device(job.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    first = os.environ["RANK"] == "0"
    logger = score = None
    if job.run is not None and job.tracking_uri is not None and first:
        logger = RunLogger(Store.connect(job.tracking_uri), job.run[0], run_id=job.run[1])
    if job.benchmark is not None and first:
        from insitu.training.benchmark import Benchmark

        score = Benchmark.load(Path(job.benchmark))
    precision = Precision.of(job.precision)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    method = find(job.method, job.settings)
    with quiet():
        checkpoint = bases.checkpoint_of(method.base, job.checkpoint)
        backbone = bases.load(method.base, checkpoint, device=device, precision=precision)
    fit(
        method,
        backbone,
        encoded,
        requests.load(work / REQUESTS),
        recipe=job.recipe, devices=job.devices, watch=job.watch, work=work, logger=logger,
        score=score, show=first, start=load_file(job.start) if job.start is not None else None,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
