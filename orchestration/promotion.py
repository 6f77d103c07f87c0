"""The promotion job: every candidate before the gate."""

import subprocess
import sys
from pathlib import Path

import dagster as dg


def promotion_job(root: Path) -> dg.JobDefinition:
    """Ask the gate for each candidate; a refusal is a result, not a failure."""

    @dg.op
    def promote_candidates(context: dg.OpExecutionContext) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "insitu.cli", "registry", "promote"],
            cwd=root, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode not in (0, 1):
            raise dg.Failure(done.stderr.strip())
        for line in done.stdout.splitlines():
            context.log.info(line)

    @dg.job(description="Promote every candidate that passes the gate.")
    def promote() -> None:
        promote_candidates()

    return promote
