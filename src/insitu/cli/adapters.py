"""`insitu registry`: registered adapters, seen and promoted."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from insitu.cli.common import PROBLEMS_FOUND, SETTINGS, Group, ParamsFile, store
from insitu.errors import UserError
from insitu.params import Params, load

if TYPE_CHECKING:
    from insitu.registry.store import Entry, Store

registry = typer.Typer(
    cls=Group, no_args_is_help=True, help="Registered adapters: see, verify, promote, take back."
)
Subject = Annotated[str, typer.Argument(help="A subject, or a registered name.")]
Version = Annotated[str, typer.Argument(help="A version's number or an alias.")]


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
    version: Version = "candidate",
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


@registry.command()
def show(subject: Subject, version: Version = "champion", params: ParamsFile = SETTINGS) -> None:
    """What is known of a version: figures, the gate's verdict, what is behind it, as JSON."""
    settings = load(params)
    found = store(settings)
    entry = found.entry(_name(settings, subject), version)
    told = {
        "name": entry.name, "version": entry.version, "aliases": entry.aliases,
        "digest": entry.digest, "data": entry.data, "figures": entry.figures,
        "gate": found.verdict(entry), "run": found.address(entry.run_id),
    }  # fmt: skip
    typer.echo(json.dumps(told, indent=2))


@registry.command()
def export(
    subject: Subject,
    out: Annotated[Path, typer.Argument(help="The folder to write, which is not there yet.")],
    version: Version = "champion",
    params: ParamsFile = SETTINGS,
) -> None:
    """Write a version's package as a folder, verified."""
    from insitu.files import adopt

    if out.exists():
        raise UserError(
            f"A package was to be written to {out}.",
            "There is something already.",
            "Name a folder that is not there yet.",
        )
    settings = load(params)
    found = store(settings)
    entry = found.entry(_name(settings, subject), version)
    with tempfile.TemporaryDirectory() as folder:
        adopt(found.fetch(entry, Path(folder)).folder, out)
    typer.echo(f"{out}: {entry.name}, version {entry.version}, {entry.digest[:12]}")


@registry.command()
def verify(
    subject: Annotated[str | None, typer.Argument(help="By default all.")] = None,
    every: Annotated[bool, typer.Option("--every", help="Also versions without an alias.")] = False,
    params: ParamsFile = SETTINGS,
) -> None:
    """Download registered packages and compare their digests; exit with 1 if one is damaged."""
    settings = load(params)
    found = store(settings)
    names = [_name(settings, subject)] if subject else found.names()
    damaged = checked = 0
    for name in names:
        for entry in found.versions(name):
            if every or entry.aliases:
                checked += 1
                damaged += not _is_whole(found, entry)
    typer.echo(f"{checked} verified, {damaged} damaged")
    if damaged:
        raise typer.Exit(PROBLEMS_FOUND)


def _is_whole(found: "Store", entry: "Entry") -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            found.fetch(entry, Path(folder))
        except UserError as error:
            typer.echo(f"{entry.name}  {entry.version:>3}  {error.why}")
            return False
    return True


def _name(settings: Params, subject: str) -> str:
    """A registered name as it is, a subject's with the method that subjects are tuned by."""
    return subject if "." in subject else f"{settings.tune.method}.{subject}"
