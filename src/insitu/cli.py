"""The `insitu` command; what loads models is imported by the commands that need it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from insitu.doctor import examine, render
from insitu.errors import UserError
from insitu.params import Params, load

if TYPE_CHECKING:
    from insitu.registry.repository import Repository
    from insitu.registry.store import Store
    from insitu.serving.engine import Engine

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


SETTINGS = Path("params.yaml")
ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="The settings file.")]
Subject = Annotated[str, typer.Argument(help="The subject's name.")]
app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False)
registry = typer.Typer(cls=_Group, no_args_is_help=True, help="Registered adapters: see, promote.")
app.add_typer(registry, name="registry")
data = typer.Typer(cls=_Group, no_args_is_help=True, help="Data sets: see, name, log, keep.")
app.add_typer(data, name="data")
DataSetName = Annotated[str, typer.Argument(metavar="NAME", help="The data set: boundid, groups.")]


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


@registry.command("list")
def list_adapters(params: ParamsFile = SETTINGS) -> None:
    """Every registered adapter with its aliases and its DINO."""
    store = _store(load(params))
    for name in store.names():
        for entry in store.versions(name):
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
    store = _store(settings)
    names = [_name(settings, subject)] if subject else store.candidates()
    if not names:
        typer.echo("There is no candidate.")
    stopped = False
    for name in names:
        verdict = store.promote(name, version, asked)
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
    entry = _store(settings).rollback(_name(settings, subject))
    typer.echo(f"{entry.name}: version {entry.version} is champion")


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

    done = log(_repository(), _store(load(params)), name, version)
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

    found = check(_repository(), _store(load(params)))
    for one in found:
        data = f"data/{one.data} {one.md5[:12]}" if one.data else "its data is not recorded"
        kept = f"kept by {', '.join(one.kept_by)}" if one.kept_by else f"would go; {one.todo}"
        typer.echo(f"{one.adapter}  {one.version:>3}  {data}  {kept}")
    if not found:
        typer.echo("No adapter is registered.")
    if not all(one.kept_by for one in found):
        typer.echo(f"not safe: {GC} would delete some of it", err=True)
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


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    params: ParamsFile = SETTINGS,
) -> None:
    """Answer POST /v1/place with the champions."""
    import uvicorn

    from insitu.serving.app import make_app

    uvicorn.run(make_app(_engine(load(params))), host=host, port=port)


@app.command()
def place(
    subject: Subject,
    image: Annotated[Path, typer.Argument(help="The photo.", exists=True, dir_okay=False)],
    box: Annotated[
        str, typer.Argument(help="left,top,right,bottom in shares of width and height.")
    ],
    out: Annotated[Path, typer.Option(help="Where the picture goes, a PNG.")] = Path("placed.png"),
    prompt: Annotated[
        str | None, typer.Option(help="What is to be seen; {subject} stands for the subject.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the picture.")] = 0,
    version: Annotated[str, typer.Option(help="A version's number or an alias.")] = "champion",
    params: ParamsFile = SETTINGS,
) -> None:
    """Put a subject into a photo, as POST /v1/place does."""
    import numpy as np
    from PIL import Image

    from insitu.serving.app import read_photo

    corners = _corners(box)
    photo = read_photo(image.read_bytes())
    placed = _engine(load(params)).place(
        subject=subject, image=photo, box_xyxy01=corners, prompt=prompt, seed=seed, version=version
    )
    Image.fromarray(np.asarray(placed.image)).save(out, format="PNG")
    typer.echo(f"{out}: {placed.entry.name}, version {placed.entry.version}")


def _name(settings: Params, subject: str) -> str:
    return f"{settings.tune.method}.{subject}"


def _store(settings: Params) -> "Store":
    from insitu.registry.store import Store

    return Store.connect(settings.registry.tracking_uri)


def _repository() -> "Repository":
    from insitu.registry.repository import Repository

    return Repository(Path())


def _engine(settings: Params) -> "Engine":
    """The store first: a server that is not there is refused before a model is loaded."""
    store = _store(settings)
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision
    from insitu.backbones.unet import InpaintBackbone
    from insitu.serving.engine import Engine

    device, held = choose_device(settings.device), Precision.of(settings.painting_base())
    backbone = InpaintBackbone.load(settings.models.sdxl_inpaint, device=device, precision=held)
    return Engine(backbone=backbone, store=store, method=settings.tune.method)


def _corners(text: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"The box {text!r} was given.",
            "A box is four numbers between commas: left, top, right, bottom.",
            "Write for example 0.3,0.4,0.7,0.9, in shares of width and height.",
        ) from None
    return x0, y0, x1, y1


if __name__ == "__main__":
    app()
