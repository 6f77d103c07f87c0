"""Subjects as partitions: one tuned adapter each, inside the one output of the stage `adapters`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.dvc_assets import PARTITIONS, launch
from orchestration.showing import picture
from pipelines._paths import ADAPTERS, SUBJECTS

FLEET = 16
"""Subjects that one run of a backfill tunes."""


def tune_asset(root: Path) -> dg.AssetsDefinition:
    """The partitioned asset that tunes one subject; `adapters` collects and records them."""

    @dg.asset(
        name="tune",
        deps=["subjects", "attributes", "regularization", dg.AssetKey(["encode", "subjects"])],
        partitions_def=PARTITIONS,
        # One run is a fleet: a few processes, each with a base that it loads once.
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=FLEET),
        description="One row is a subject: its adapter package. Records nothing in DVC; the stage"
        " adapters does, for all subjects together.",
        group_name="subjects",
        kinds={"python", "pytorch"},
        pool="gpu",
    )
    def tune(
        context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult[Any]:
        names = context.partition_keys
        asked = " ".join(f"--subject {name}" for name in names)
        reported = launch(context, pipes, root, f"python -m pipelines.adapters {asked}")
        runs = {n: json.loads((root / ADAPTERS / n / "run.json").read_text()) for n in names}
        for name, run in runs.items():
            context.add_asset_metadata(
                {
                    "seconds": run["seconds"],
                    "digest": run["digest"],
                    "preview": picture(root / ADAPTERS / name / "preview.png"),
                },
                partition_key=name,
            )
        # Of several partitions Dagster keeps one version: it changes when any of them does.
        version = hashlib.sha256("".join(r["digest"] for r in runs.values()).encode()).hexdigest()
        alone = len(runs) == 1
        return dg.MaterializeResult(
            metadata=reported,
            data_version=dg.DataVersion(runs[names[0]]["digest"] if alone else version),
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
