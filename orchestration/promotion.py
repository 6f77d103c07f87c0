"""Promotion: candidates are measured, judged, and made champions or left to a person, as set."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from insitu.registry.store import Store

EVERY_S = 60


class Asked(dg.Config):
    """Which candidates; by default all."""

    names: list[str] = Field(default_factory=list)


def promotion_job(root: Path) -> dg.JobDefinition:
    """Ask the gate for candidates; a refusal is a result, not a failure."""

    @dg.op(pool="gpu")  # what cannot be compared otherwise is measured first
    def promote_candidates(context: dg.OpExecutionContext, config: Asked) -> None:
        from insitu.params import load

        how = "promote" if load(root / "params.yaml").registry.promotion == "promote" else "judge"
        for words in [[name] for name in config.names] or [[]]:
            done = subprocess.run(
                [sys.executable, "-m", "insitu.cli", "registry", how, *words, "--measure"],
                cwd=root, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode not in (0, 1):
                raise dg.Failure(done.stderr.strip())
            for line in done.stdout.splitlines():
                context.log.info(line)

    @dg.job(description="Measure candidates where need be, and promote those that pass the gate.")
    def promote() -> None:
        promote_candidates()

    return promote


def candidates_sensor(root: Path, job: dg.JobDefinition) -> dg.SensorDefinition:
    """A run of the job for each candidate that the gate was not asked of yet, once."""

    @dg.sensor(
        name="candidates", job=job, minimum_interval_seconds=EVERY_S,
        description="Asks the gate of every new candidate, also of one that was named so by hand.",
    )  # fmt: skip
    def candidates() -> Iterator[dg.RunRequest | dg.SkipReason]:
        store = _store(root)
        for name in store.candidates():
            entry = store.resolve(name, "candidate")
            if entry.judged is None:
                yield dg.RunRequest(
                    run_key=f"{name} {entry.digest}",
                    run_config={"ops": {"promote_candidates": {"config": {"names": [name]}}}},
                    tags={"insitu/adapter": name, "insitu/version": entry.version},
                )

    return candidates


def champions_sensor(root: Path) -> dg.SensorDefinition:
    """An observation of the asset that registers, each time a champion changes."""

    @dg.sensor(
        name="champions", minimum_interval_seconds=EVERY_S,
        description="Notes every change of a champion, and whether the gate let it through or"
        " somebody moved the alias in MLflow.",
    )  # fmt: skip
    def champions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        store = _store(root)
        known = json.loads(context.cursor or "{}")
        now = {
            name: aliases["champion"]
            for name, aliases in store.aliases().items()
            if "champion" in aliases
        }
        events = []
        for name in sorted(now.keys() | known.keys()):
            if now.get(name) == known.get(name) or not context.cursor:
                continue
            metadata: dict[str, str] = {"adapter": name, "before": known.get(name, "none")}
            if name in now:
                entry = store.resolve(name, now[name])
                metadata |= {
                    "champion": entry.version, "digest": entry.digest,
                    "gate": "passed" if entry.judged else "moved by hand",
                }  # fmt: skip
            else:
                metadata |= {"champion": "none"}
            key = dg.AssetKey(["register", name.partition(".")[0]])
            events.append(dg.AssetObservation(asset_key=key, metadata=metadata))
        return dg.SensorResult(cursor=json.dumps(now, sort_keys=True), asset_events=events)

    return champions


def _store(root: Path) -> "Store":
    from insitu.params import load
    from insitu.registry.store import Store

    return Store.connect(load(root / "params.yaml").registry.tracking_uri)
