"""`insitu claims`: the papers' claims, checked."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def claims(
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="This claim; may be given again.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="One claim of each paper, with fewer trainings.")] = (
        False
    ),
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results there, too.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Pieces at once; by default one for each core.")
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Log all claims to MLflow, and link its runs.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Only write the report on the results again.")
    ] = False,
    shown: Annotated[
        bool, typer.Option("--shown", help="Only print the verdicts of the committed results.")
    ] = False,
) -> None:
    """Check what the papers claim; what is finished is kept, and an interrupted run continues."""
    from insitu.evaluation.claims import results

    if shown:
        found = results.read()
        if found is None:
            typer.echo(f"{results.FILE} is not there yet: run it without --shown.")
            raise typer.Exit(1)
        for claim in found["claims"]:
            if not only or claim["id"] in only:
                typer.echo(results.line(claim))
        return
    # A process of its own: the stage stands above this package.
    command = [sys.executable, "-m", "pipelines.claims", *(f"--only={id}" for id in only or ())]
    command += ["--quick"] if quick else []
    command += [f"--json={json}"] if json else []
    command += [f"--workers={workers}"] if workers else []
    command += ["--log"] if log else []
    command += ["--report"] if report else []
    raise typer.Exit(subprocess.run(command).returncode)
