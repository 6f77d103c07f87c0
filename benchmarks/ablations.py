"""What a setting of a method is worth: trained with it and without it, measured alike.

    python -m benchmarks.ablations inpaint_anywhere placed=false,group=self shifted=false
    python -m benchmarks.ablations eligen train.steps=1200,train.optimizer.lr=5.0e-4
    python -m benchmarks.ablations dreammix regular_share=0     # keys of `tune`

Each variant is trained and measured by the stages' own commands in a folder of its own under
`.insitu/ablations`, so an interrupted run continues. The default is what `dvc repro
measure@<method>`, of DreamMix `dvc repro variants@dreammix`, has measured. Printed for each metric:
the default's mean, the variant's, and their difference picture by picture, with 95% intervals of a
bootstrap over requests (of DreamMix over subjects first), then their seeds. A variant is one
training: chance of the training itself is not in the intervals.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from insitu.evaluation import tables
from insitu.evaluation.comparison import compare

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Way:
    """How a method is trained and measured.

    Attributes:
        block: its settings in params.yaml.
        steps: modules of `pipelines` with their arguments.
        made: folders of data that a variant makes; the others are the root's.
        scores: the table of what was measured.
        parts: which rows of it, by a name for people.
    """

    block: str
    steps: Sequence[Sequence[str]]
    made: Sequence[str]
    scores: Path
    parts: Mapping[str, Mapping[str, str]]


def way_of(method: str) -> Way:
    if method == "dreammix":
        parts = {asked: {"asked": asked, "variant": "as trained"} for asked in ("edits", "small")}
        steps, table = [["adapters"], ["variants", method]], Path("reports/variants")
        return Way("tune", steps, ["adapters"], table / method / tables.NAME, parts)
    steps = [[stage, method] for stage in ("prepare", "train", "measure")]
    table = Path("reports/trained") / method / tables.NAME
    return Way(method, steps, ["encoded", "trained"], table, {"": {"way": "trained"}})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("variants", nargs="+", metavar="KEY=VALUE,...")
    asked = parser.parse_args()
    way, told = way_of(asked.method), {}
    for variant in asked.variants:
        folder = ROOT / ".insitu" / "ablations" / asked.method / variant
        run(way, changes(variant), folder)
        for part, only in way.parts.items():
            default, other = (tables.read(r / way.scores, **only) for r in (ROOT, folder))
            found = {name: compare(default[name], other[name]) for name in default}
            name = f"{variant} {part}".strip()
            print(name)
            for metric, c in found.items():
                print(f"  {metric:16} default {c.first}  variant {c.second}")
                print(f"  {'':16} difference {c.difference}")
            told[name] = {metric: c.difference.rounded() for metric, c in found.items()}
    print(json.dumps(told))


def changes(variant: str) -> dict[str, Any]:
    """Settings of the method by name, their values as YAML has them."""
    parts = (one.partition("=") for one in variant.split(","))
    return {key: YAML(typ="safe", pure=True).load(value) for key, _, value in parts}


def run(way: Way, changed: dict[str, Any], folder: Path) -> None:
    """The steps in a folder that has the root's data and models, and settings of its own."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    links = [ROOT / "models", *(p for p in (ROOT / "data").iterdir() if p.name not in way.made)]
    for path in links:
        link = folder / path.relative_to(ROOT)
        if not link.is_symlink():
            link.symlink_to(path)
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    for key, value in changed.items():
        *path, last = key.split(".")
        own = params[way.block]
        for part in path:
            own = own.get(part, {})
        if last not in own:
            sys.exit(f"{way.block} has no {key} in params.yaml")
        own[last] = value
    yaml.dump(params, folder / "params.yaml")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for module, *words in way.steps:
        command = [sys.executable, "-m", f"pipelines.{module}", *words]
        subprocess.run(command, cwd=folder, env=env, check=True)


if __name__ == "__main__":
    main()
