"""What a setting of a method is worth: trained with it and without it, measured alike.

    python -m benchmarks.ablations inpaint_anywhere placed=false,group=self shifted=false
    python -m benchmarks.ablations eligen train.steps=1200,train.optimizer.lr=5.0e-4

Each variant is prepared, trained and measured by the stages' own commands in a folder of its own
under `.insitu/ablations`, so an interrupted run continues. The default is the adapter that
`dvc repro measure@<method>` has measured. Printed for each metric: the default's mean, the
variant's, and their difference picture by picture, with 95% intervals of a bootstrap over requests,
then their seeds. A variant is one training: chance of the training itself is not in the intervals.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from insitu.evaluation.comparison import compare

ROOT = Path(__file__).resolve().parents[1]
SCORES = Path("reports/trained")
STAGES = ("prepare", "train", "measure")
OWN = ("encoded", "trained")
"""Folders of data that a variant makes; the others are the root's."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("variants", nargs="+", metavar="KEY=VALUE,...")
    asked = parser.parse_args()
    default = scores(ROOT / SCORES / asked.method / "scores.csv")
    found = {}
    for variant in asked.variants:
        folder = ROOT / ".insitu" / "ablations" / asked.method / variant
        run(asked.method, changes(variant), folder)
        other = scores(folder / SCORES / asked.method / "scores.csv")
        found[variant] = {name: compare(default[name], other[name]) for name in default}
        print(variant)
        for name, c in found[variant].items():
            print(f"  {name:16} default {c.first}  variant {c.second}  difference {c.difference}")
    told = {
        variant: {name: c.difference.rounded() for name, c in metrics.items()}
        for variant, metrics in found.items()
    }
    print(json.dumps(told))


def changes(variant: str) -> dict[str, Any]:
    """Settings of the method by name, their values as YAML has them."""
    parts = (one.partition("=") for one in variant.split(","))
    return {key: YAML(typ="safe", pure=True).load(value) for key, _, value in parts}


def run(method: str, changed: dict[str, Any], folder: Path) -> None:
    """The stages in a folder that has the root's data and models, and settings of its own."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    links = [ROOT / "models", *(p for p in (ROOT / "data").iterdir() if p.name not in OWN)]
    for path in links:
        link = folder / path.relative_to(ROOT)
        if not link.is_symlink():
            link.symlink_to(path)
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    for key, value in changed.items():
        *path, last = key.split(".")
        own = params[method]
        for part in path:
            own = own.get(part, {})
        if last not in own:
            sys.exit(f"{method} has no {key} in params.yaml")
        own[last] = value
    yaml.dump(params, folder / "params.yaml")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for stage in STAGES:
        command = [sys.executable, "-m", f"pipelines.{stage}", method]
        subprocess.run(command, cwd=folder, env=env, check=True)


def scores(path: Path) -> dict[str, NDArray[np.float64]]:
    """The trained way's scores by metric, [requests, 1, seeds]."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["way"] == "trained"]
    shape = (1 + max(int(r["request"]) for r in rows), 1, 1 + max(int(r["seed"]) for r in rows))
    names = [name for name in rows[0] if name not in ("way", "request", "seed")]
    return {name: np.array([float(r[name]) for r in rows]).reshape(shape) for name in names}


if __name__ == "__main__":
    main()
