"""Photos, attributes and regularization pictures of subjects of the world, in a folder of its own.

Made by the stages' own commands, in a working folder that has settings of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from insitu.errors import UserError
from insitu.params import Params

STAGES = ("subjects", "attributes", "regularization")


def make(params: Params, folder: Path, count: int) -> None:
    """What is finished is kept by the stages themselves.

    Raises:
        UserError: a stage fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = params.model_dump(mode="json")
    own["subjects"] |= {"drawn": count, "folder": "none"}
    for checkpoint in own["models"].values():
        there = Path(checkpoint["path"])
        if there.is_dir():
            checkpoint["path"] = str(there.resolve())
    YAML().dump(own, folder / "params.yaml")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for stage in STAGES:
        command = [sys.executable, "-m", f"pipelines.{stage}"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"The stage {stage} was run in {folder} for {count} subjects.",
                f"It ended with {done.returncode}: {done.stderr[-500:]}",
                "Mend it and run again: what is finished is kept.",
            )
