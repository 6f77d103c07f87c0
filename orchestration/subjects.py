"""Subjects as partitions: one tuned adapter each, inside the one output of the stage `adapters`."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.dvc_assets import PARTITIONS, launch
from orchestration.showing import picture
from pipelines._paths import ADAPTERS, SUBJECTS


def tune_asset(root: Path) -> dg.AssetsDefinition:
    """The partitioned asset that tunes one subject; `adapters` collects and records them."""

    @dg.asset(
        name="tune",
        deps=["subjects", "regularization", dg.AssetKey(["encode", "subjects"])],
        partitions_def=PARTITIONS,
        description="One row is a subject: its adapter package. Records nothing in DVC; the stage"
        " adapters does, for all subjects together.",
        group_name="subjects",
        kinds={"python", "pytorch"},
        pool="gpu",
    )
    def tune(
        context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult[Any]:
        subject = context.partition_key
        command = f"python -m pipelines.adapters --subject {subject}"
        reported = launch(context, pipes, root, command)
        run = json.loads((root / ADAPTERS / subject / "run.json").read_text())
        return dg.MaterializeResult(
            metadata={
                **reported,
                "seconds": run["seconds"],
                "preview": picture(root / ADAPTERS / subject / "preview.png"),
            },
            data_version=dg.DataVersion(run["digest"]),
        )

    return tune


def update_partitions(context: dg.AssetExecutionContext, root: Path) -> None:
    """Make the partitions those subjects that have photos now."""
    now = {path.name for path in (root / SUBJECTS).iterdir() if path.is_dir()}
    name = str(PARTITIONS.name)
    known = set(context.instance.get_dynamic_partitions(name))
    context.instance.add_dynamic_partitions(name, sorted(now - known))
    for gone in sorted(known - now):
        context.instance.delete_dynamic_partition(name, gone)
    if now != known:
        context.log.info("subjects: %d new, %d gone", len(now - known), len(known - now))
