"""Seconds a subject: tuned one command each, against fleets of 1, 4 and 16 in one command.

    insitu mlflow &                       # where the runs go
    python -m benchmarks.fleet            # 16 subjects, 40 minutes of two cores
    python -m benchmarks.fleet --subjects 4 --fleets 1 4 --singles 2

Subjects are drawn, photographed and encoded by the stages' own commands in a folder of its own
(`.insitu/fleet`), once. Then each way tunes them from the start with `python -m pipelines.adapters`
as params.yaml has it: single runs take turns with the fleets, and have all of the processor.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from insitu.evaluation.comparison import nested_mean
from pipelines._paths import ADAPTERS, SUBJECTS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".insitu" / "fleet"
MADE = (("subjects",), ("attributes",), ("regularization",), ("encode", "subjects"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--fleets", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--singles", type=int, help="subjects tuned one command each; all")
    asked = parser.parse_args()
    names = prepared(asked.subjects)
    alone = names[: asked.singles]
    # Before, between and after the fleets, so that a machine that slows down slows both.
    parts = np.array_split(alone, len(asked.fleets) + 1)
    singles, fleets = [seconds([str(name)]) for name in parts[0]], {}
    for size, part in zip(asked.fleets, parts[1:], strict=True):
        fleets[size] = seconds(names[:size])
        singles += [seconds([str(name)]) for name in part]
    single = nested_mean(np.array(singles)[:, None, None])
    mean, low, high = single.value, single.low, single.high
    print(f"{len(singles)} single runs: {mean:.1f} ({low:.1f} to {high:.1f}) s a subject")
    told = {"single": [round(taken, 1) for taken in singles]}
    for size, total in fleets.items():
        own = total / size
        print(
            f"fleet of {size}: {total:.0f} s, {own:.1f} s a subject,"
            f" {mean / own:.2f} ({low / own:.2f} to {high / own:.2f}) times the throughput"
        )
        told[f"fleet of {size}"] = [round(total, 1)]
    print(json.dumps(told))


def prepared(count: int) -> list[str]:
    """The names of that many subjects, ready to be tuned."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "models").is_symlink():
        (FOLDER / "models").symlink_to(ROOT / "models")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["subjects"] |= {"drawn": count}
    yaml.dump(params, FOLDER / "params.yaml")
    for stage in MADE:
        called(*stage)
    return sorted(path.name for path in (FOLDER / SUBJECTS).iterdir())[:count]


def seconds(names: Sequence[str]) -> float:
    """Of tuning these in one command, from the start."""
    for made in (FOLDER / ADAPTERS, FOLDER / ".insitu" / "work" / "tune"):
        shutil.rmtree(made, ignore_errors=True)
    began = time.monotonic()
    called("adapters", *(word for name in names for word in ("--subject", name)))
    taken = time.monotonic() - began
    print(f"{len(names)} in {taken:.1f} s", file=sys.stderr, flush=True)
    return taken


def called(stage: str, *words: str) -> None:
    command = [sys.executable, "-m", f"pipelines.{stage}", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=FOLDER, env=env, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
