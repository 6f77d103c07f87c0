"""`insitu data`: data sets, seen, named, logged and kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from insitu.cli.common import PROBLEMS_FOUND, SETTINGS, Group, ParamsFile, store
from insitu.params import load

if TYPE_CHECKING:
    from insitu.registry.repository import Repository

data = typer.Typer(cls=Group, no_args_is_help=True, help="Data sets: see, name, log, keep.")
DataSetName = Annotated[str, typer.Argument(metavar="NAME", help="The data set: boundid, groups.")]


@data.command("list")
def list_data() -> None:
    """Every data set: rows, refused rows, DVC's hash, the tags that name this version of it."""
    from insitu.registry.data_sets import data_sets

    for found in data_sets(_repository()):
        counts = found.counts
        rows = f"{counts['rows']:>9,}  {counts['rejected']:>7,} refused" if counts else "not here"
        md5 = found.md5[:12] if found.md5 else "not recorded"
        names = ", ".join(found.versions) or "no name"
        others = f"  (others: {', '.join(found.others)})" if found.others else ""
        typer.echo(f"{found.name:<16}{rows:<30}{md5:<14}{names}{others}")


@data.command("tag")
def tag_data(
    name: DataSetName,
    version: Annotated[str, typer.Argument(help="What to call it, e.g. v1.")],
    rev: Annotated[
        str | None, typer.Option(help="A commit whose version is meant; else the present one.")
    ] = None,
) -> None:
    """Give a data set's version a name: a git tag, by which `dvc get` fetches it."""
    from insitu.registry.data_sets import tag

    repository = _repository()
    made = tag(repository, name, version, rev)
    typer.echo(f"{made}: {repository.get_command(f'data/{name}', made)}")
    if repository.origin():
        typer.echo(f"for others: dvc push && git push origin {made}")


@data.command("log")
def log_data(
    name: DataSetName,
    version: Annotated[
        str | None, typer.Option("--name", help="The version that a tag names, e.g. v1.")
    ] = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Log a data set's version to MLflow, once: input, counts, funnel and card."""
    from insitu.registry.data_log import log

    done = log(_repository(), store(load(params)), name, version)
    said = "logged" if done.new else "logged before"
    typer.echo(f"{name} {done.md5[:12]}: {said}, run {done.run_id}")


@data.command("check")
def check_data(params: ParamsFile = SETTINGS) -> None:
    """Is the data behind every registered adapter safe from `dvc gc`? Exit with 1 if some is not.

    Safe is what the tip of a branch here or a tag holds: these are kept by
    `dvc gc --all-branches --all-tags`, of which `dvc gc --all-tags` keeps the tags' part.
    """
    from insitu.registry.data_sets import check
    from insitu.registry.repository import GC

    found = check(_repository(), store(load(params)))
    for one in found:
        data = f"data/{one.data} {one.md5[:12]}" if one.data else "its data is not recorded"
        kept = f"kept by {', '.join(one.kept_by)}" if one.kept_by else f"would go; {one.todo}"
        typer.echo(f"{one.adapter}  {one.version:>3}  {data}  {kept}")
    if not found:
        typer.echo("No adapter is registered.")
    if not all(one.kept_by for one in found):
        typer.echo(f"not safe: {GC} would delete some of it", err=True)
        raise typer.Exit(PROBLEMS_FOUND)


def _repository() -> "Repository":
    from insitu.registry.repository import Repository

    return Repository(Path())
