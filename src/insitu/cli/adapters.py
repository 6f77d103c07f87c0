"""`insitu registry`: registered adapters, seen and promoted."""

from typing import Annotated

import typer

from insitu.cli.common import PROBLEMS_FOUND, SETTINGS, Group, ParamsFile, store
from insitu.params import Params, load

registry = typer.Typer(cls=Group, no_args_is_help=True, help="Registered adapters: see, promote.")
Subject = Annotated[str, typer.Argument(help="The subject's name.")]


@registry.command("list")
def list_adapters(params: ParamsFile = SETTINGS) -> None:
    """Every registered adapter with its aliases and its DINO."""
    found = store(load(params))
    for name in found.names():
        for entry in found.versions(name):
            dino = entry.figures.get("dino", {}).get("tuned", {}).get("value")
            shown = "not measured" if dino is None else f"DINO {dino:.3f}"
            aliases = ", ".join(entry.aliases)
            typer.echo(f"{name}  {entry.version:>3}  {entry.digest[:12]}  {shown}  {aliases}")


@registry.command()
def promote(
    subject: Annotated[str | None, typer.Argument(help="By default every candidate.")] = None,
    version: Annotated[str, typer.Argument(help="A version's number or an alias.")] = "candidate",
    params: ParamsFile = SETTINGS,
) -> None:
    """Make versions champions, if the gate lets them; exit with 1 if it stops one."""
    from insitu.registry.gate import Thresholds

    settings = load(params)
    asked = Thresholds(gain=settings.registry.gain, margin=settings.registry.margin)
    found = store(settings)
    names = [_name(settings, subject)] if subject else found.candidates()
    if not names:
        typer.echo("There is no candidate.")
    stopped = False
    for name in names:
        verdict = found.promote(name, version, asked)
        for reason in verdict.reasons:
            typer.echo(f"{name}: {reason}")
        typer.echo(f"{name}: {'promoted' if verdict.passed else 'not promoted'}")
        stopped |= not verdict.passed
    if stopped:
        raise typer.Exit(PROBLEMS_FOUND)


@registry.command()
def rollback(subject: Subject, params: ParamsFile = SETTINGS) -> None:
    """Make the version champion that was it before."""
    settings = load(params)
    entry = store(settings).rollback(_name(settings, subject))
    typer.echo(f"{entry.name}: version {entry.version} is champion")


def _name(settings: Params, subject: str) -> str:
    return f"{settings.tune.method}.{subject}"
