"""`insitu registry`: registered adapters, seen and promoted."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from insitu.cli.common import PROBLEMS_FOUND, SETTINGS, Group, ParamsFile, store
from insitu.errors import UserError
from insitu.params import Params, load

if TYPE_CHECKING:
    from insitu.evaluation.gate import Rule
    from insitu.registry.store import Entry, Store

registry = typer.Typer(
    cls=Group, no_args_is_help=True, help="Registered adapters: see, verify, promote, take back."
)
Subject = Annotated[str, typer.Argument(help="A subject, or a registered name.")]
Version = Annotated[str, typer.Argument(help="A version's number or an alias.")]
Measured = Annotated[
    bool, typer.Option("--measure", help="Measure first what cannot be compared otherwise.")
]


@registry.command("list")
def list_adapters(params: ParamsFile = SETTINGS) -> None:
    """Every registered adapter with its aliases, its own measure and what the gate said."""
    settings = load(params)
    found = store(settings)
    for name in found.names():
        for entry in found.versions(name):
            measure = next(iter(getattr(settings.registry.gate, _method(name), {})), "")
            value = _value(entry.figures.get(measure, {}))
            shown = "not measured" if value is None else f"{measure} {value:.3f}"
            gate = {None: "not judged", True: "passed", False: "refused"}[entry.judged]
            by_hand = "champion" in entry.aliases and entry.judged is not True
            aliases = ", ".join(entry.aliases) + (" (by hand)" if by_hand else "")
            told = f"{name}  {entry.version:>3}  {entry.digest[:12]}  {shown}  {gate}  {aliases}"
            typer.echo(told.rstrip())


def _value(figure: Any) -> float | None:
    """The adapter's own, which comes first."""
    return next((float(way["value"]) for way in figure.values()), None)


@registry.command()
def promote(
    subject: Annotated[str | None, typer.Argument(help="By default every candidate.")] = None,
    version: Version = "candidate",
    measured: Measured = False,
    params: ParamsFile = SETTINGS,
) -> None:
    """Make versions champions, if the gate lets them; exit with 1 if it stops one."""
    _ask(load(params), subject, version, crown=True, measured=measured)


@registry.command()
def judge(
    subject: Annotated[str | None, typer.Argument(help="By default every candidate.")] = None,
    version: Version = "candidate",
    measured: Measured = False,
    params: ParamsFile = SETTINGS,
) -> None:
    """Ask the gate of versions, and change no champion; exit with 1 if it would stop one."""
    _ask(load(params), subject, version, crown=False, measured=measured)


def _ask(
    settings: Params, subject: str | None, version: str, *, crown: bool, measured: bool
) -> None:
    from insitu.evaluation import gate

    found = store(settings)
    names = [_name(settings, subject)] if subject else found.candidates()
    if not names:
        typer.echo("There is no candidate.")
    way, done = (gate.promote, "promoted") if crown else (gate.ask, "may be promoted")
    stopped = False
    for name in names:
        try:
            if measured:
                _measure_where_needed(found, name, version)
            verdict = way(found, name, version, _rules(settings, name))
        except UserError as error:
            if subject:
                raise
            stopped = True  # and the others are asked
            typer.echo(f"{name}: {error.why} {error.todo}")
            continue
        for reason in verdict.reasons:
            typer.echo(f"{name}: {reason}")
        typer.echo(f"{name}: {done if verdict.passed else 'not promoted'}")
        stopped |= not verdict.passed
    if stopped:
        raise typer.Exit(PROBLEMS_FOUND)


@registry.command()
def measure(
    subject: Subject, version: Version = "candidate", params: ParamsFile = SETTINGS
) -> None:
    """Measure a version on today's benchmark, so that the gate can compare it with others."""
    raise typer.Exit(_measure(_name(load(params), subject), version))


def _measure(name: str, version: str) -> int:
    """In a process of its own, since the step stands above this package; its status."""
    command = [sys.executable, "-m", "pipelines.remeasure", name, version]
    return subprocess.run(command).returncode


def _measure_where_needed(found: "Store", name: str, version: str) -> None:
    """Have a version and the champion measured on one benchmark, today's, unless they are."""
    from insitu.evaluation.gate import NotMeasured, measurement

    for last in (False, True):
        try:
            candidate = measurement(found, found.entry(name, version))
            champion = found.champion(name)
            if champion is not None:
                measurement(found, champion, candidate.digest)
            return
        except NotMeasured as error:
            both = {error.entry.version} | ({found.entry(name, version).version} if last else set())
            for number in sorted(both):
                if status := _measure(name, number):
                    raise typer.Exit(status) from None


@registry.command()
def sync(params: ParamsFile = SETTINGS) -> None:
    """Have every champion in serving.folder, from which a server also begins without MLflow."""
    from insitu.registry.store import CHAMPION
    from insitu.serving.service import make_catalog

    settings = load(params)
    store(settings)  # refused here if it does not answer
    catalog, shelf = make_catalog(settings)
    catalog.follow()
    entries = [
        catalog.resolve(name, CHAMPION)
        for name, aliases in catalog.aliases().items()
        if CHAMPION in aliases
    ]
    for entry in entries:
        shelf.get(entry)
        typer.echo(f"{entry.name}  {entry.version:>3}  {entry.digest[:12]}")
    gone = shelf.prune({entry.digest for entry in entries})
    typer.echo(f"{len(entries)} in {settings.serving.folder}, {gone} others removed")


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
    known = "." in subject or subject in type(settings.registry.gate).model_fields
    return subject if known else f"{settings.tune.method}.{subject}"


def _method(name: str) -> str:
    return name.partition(".")[0]


def _rules(settings: Params, name: str) -> "dict[str, Rule]":
    """What the gate asks of a method's adapters.

    Raises:
        UserError: nothing is said of it.
    """
    from insitu.evaluation.gate import Rule

    own = getattr(settings.registry.gate, _method(name), None)
    if own is None:
        raise UserError(
            f"{name} was to pass the gate.",
            f"`registry.gate` asks nothing of {_method(name)}, and nothing is no test.",
            f"Write what it has to be measured as into `registry.gate.{_method(name)}`.",
        )
    return {metric: Rule(gain=rule.gain, margin=rule.margin) for metric, rule in own.items()}
