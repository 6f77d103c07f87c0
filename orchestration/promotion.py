"""The promotion job: every candidate before the gate."""

import subprocess
import sys
from pathlib import Path

import dagster as dg


def promotion_job(root: Path) -> dg.JobDefinition:
    """Ask the gate for each subject; a refusal is a result, not a failure."""

    @dg.op
    def promote_candidates(context: dg.OpExecutionContext) -> None:
        names = sorted(p.name for p in (root / "data" / "adapters").iterdir() if p.is_dir())
        for name in names:
            done = subprocess.run(
                [sys.executable, "-m", "insitu.cli", "registry", "promote", name],
                cwd=root, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode not in (0, 1):
                raise dg.Failure(f"{name}: {done.stderr.strip()}")
            context.log.info("%s: %s", name, done.stdout.strip())

    @dg.job(description="Promote every candidate that passes the gate.")
    def promote() -> None:
        promote_candidates()

    return promote
