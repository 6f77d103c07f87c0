"""The `insitu` command; what loads models is imported by the commands that need it."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from insitu.cli.adapters import registry
from insitu.cli.checkpoints import fooocus
from insitu.cli.claims import claims
from insitu.cli.common import PROBLEMS_FOUND, SETTINGS, Group, ParamsFile
from insitu.cli.data_sets import data
from insitu.cli.painting import export, place, serve, serve_key
from insitu.cli.study import study
from insitu.doctor import examine, render
from insitu.params import load

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False)
app.add_typer(registry, name="registry")
app.add_typer(data, name="data")
app.add_typer(study, name="study")


@app.callback()
def main() -> None:
    """Put chosen subjects at chosen places in an image, and run the life of the models."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


@app.command()
def doctor(
    params: ParamsFile = SETTINGS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")] = False,
) -> None:
    """Show versions, device, settings and checkpoints; exit with 1 if something is wrong."""
    report = examine(params)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        render(report, Console())
    if not report.ok:
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def plan(
    method: Annotated[str, typer.Argument(help="The method, such as dreammix.")],
    device_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", min=0.001, help="Plan for a device with so much, not for this."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")] = False,
    params: ParamsFile = SETTINGS,
) -> None:
    """Predict the peak memory of training from shapes alone; exit with 1 if it does not fit."""
    import json

    from insitu.training.memory.report import facts, render
    from insitu.training.memory.settings import plan_of

    found = plan_of(method, load(params), device_memory)
    if as_json:
        typer.echo(json.dumps(facts(*found), indent=2))
    else:
        render(*found, Console())
    predicted, memory, _ = found
    if predicted.peak > memory:
        raise typer.Exit(PROBLEMS_FOUND)


@app.command()
def mlflow(
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; by default params.yaml's.")
    ] = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Run the MLflow server on SQLite at the address that params.yaml names."""
    from urllib.parse import urlsplit

    address = urlsplit(load(params).registry.tracking_uri)
    # Jobs that judge traces of agents: nothing here asks for them, and they are eight processes.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    arguments = (
        "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db",
        "--artifacts-destination", "mlruns", "--host", host or str(address.hostname),
        "--port", str(address.port or 5000), "--workers", "1",
    )  # fmt: skip
    os.execv(sys.executable, [sys.executable, *arguments])


for command in (serve, serve_key, place, export, fooocus, claims):
    app.command()(command)
