"""The `insitu` command."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from insitu.doctor import examine, render
from insitu.errors import UserError

PROBLEMS_FOUND = 1
REFUSED = 2


class _Group(TyperGroup):
    """Shows a refusal as its three parts instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"given: {error.given}", err=True)
            typer.echo(f"why:   {error.why}", err=True)
            typer.echo(f"to do: {error.todo}", err=True)
            raise typer.Exit(REFUSED) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Put chosen subjects at chosen places in an image, and run the life of the models."""


@app.command()
def doctor(
    params: Annotated[
        Path, typer.Option("--params", metavar="FILE", help="The settings file.")
    ] = Path("params.yaml"),
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
