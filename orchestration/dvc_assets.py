"""dvc.yaml as Dagster assets: one a stage, read from the file and never written a second time."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from insitu.processes import PARENT
from orchestration import dvc
from orchestration.showing import shown

PARTITIONS = dg.DynamicPartitionsDefinition(name="subjects")
GROUP = "stages"
EVERYTHING = "everything"
CODE_PREFIXES = ("src/", "pipelines/")


def assets(
    root: Path,
    *,
    after: dict[str, Callable[[dg.AssetExecutionContext, Path], None]] | None = None,
    upstream: dict[str, Sequence[str]] | None = None,
) -> list[dg.AssetsDefinition]:
    """An asset for every stage of `root`'s dvc.yaml.

    Args:
        after: by stage, what is done once it is up to date.
        upstream: by stage, assets it waits for that dvc.yaml does not know (partitions).
    """
    stages = dvc.stages(root)
    makers = {out: stage.name for stage in stages for out in stage.outs}
    return [
        _asset(
            root,
            stage,
            [*_upstream(stage, makers), *(upstream or {}).get(stage.name, ())],
            (after or {}).get(stage.name),
        )
        for stage in stages
    ]


def everything_job() -> Any:
    """All stages, and nothing for those that are up to date."""
    return dg.define_asset_job(
        EVERYTHING,
        selection=dg.AssetSelection.groups(GROUP),
        description="Bring every stage up to date. What is up to date does not run, and says so.",
    )


def targets_job(name: str, stages: Sequence[str]) -> Any:
    """Some stages, with all that they follow from."""
    keys = [asset_key(stage) for stage in stages]
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*keys).upstream() & dg.AssetSelection.groups(GROUP),
        description=f"Bring {', '.join(stages)} up to date, and what they follow from.",
    )


def asset_key(stage: str) -> dg.AssetKey:
    """The asset of a stage; an item of several, `encode@subjects`, lies under its stage."""
    return dg.AssetKey(stage.split("@"))


def _upstream(stage: dvc.Stage, makers: dict[str, str]) -> list[str]:
    """Stages whose output, or something inside of it, this one reads."""
    found = []
    for path in stage.inputs:
        for out, maker in makers.items():
            if path == out or path.startswith(f"{out}/"):
                found.append(maker)
    return list(dict.fromkeys(found))


def _asset(
    root: Path,
    stage: dvc.Stage,
    upstream: Sequence[str],
    after: Callable[[dg.AssetExecutionContext, Path], None] | None,
) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(stage.name),
        deps=[asset_key(name) for name in upstream],
        description=stage.desc,
        group_name=GROUP,
        kinds={"dvc", "python"},
        code_version=_code_version(stage),
        metadata={"command": stage.cmd, "outputs": list(stage.outs), "params": list(stage.params)},
    )
    def run(
        context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult[Any]:
        if dvc.up_to_date(root, stage.name):
            context.log.info("%s is up to date: nothing ran", stage.name)
            version, ran, reported = dvc.recorded_version(root, stage.name), False, {}
        else:
            before = dvc.snapshot(root, stage.name)
            reported = launch(context, pipes, root, stage.cmd)
            version, ran = dvc.commit(root, stage.name, before), True
        if after is not None:
            after(context, root)
        return dg.MaterializeResult(
            metadata={**reported, "ran": ran}, data_version=dg.DataVersion(version)
        )

    return run


def launch(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, root: Path, command: str
) -> dict[str, Any]:
    """Run a step as a process that dies with this one; the metadata that it reported."""
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    env = {PARENT: str(os.getpid())}
    done = pipes.run(context=context, command=words, cwd=str(root), env=env)
    messages = done.get_custom_messages()
    return shown({key: value for message in messages for key, value in message.items()}, root)


def _code_version(stage: dvc.Stage) -> str:
    """The hashes of the code that the stage depends on, as dvc.lock has them."""
    hashes = {
        path: known for path, known in stage.recorded.items() if path.startswith(CODE_PREFIXES)
    }
    return json.dumps(hashes, sort_keys=True) if hashes else "not run yet"
