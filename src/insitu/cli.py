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
TRAINED = Path("data/trained")
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
    what: Annotated[str, typer.Argument(help="A subject, or with --at a method: eligen.")],
    image: Annotated[str, typer.Argument(help="The photo, or with --free WIDTHxHEIGHT.")],
    box: Annotated[
        str | None,
        typer.Argument(help="A subject's left,top,right,bottom in shares of width and height."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help='What goes where, once for each: "box=0.1,0.2,0.5,0.8 reference=mug.png'
            ' prompt=mug". Keys: box, mask, reference, prompt, landmarks, reference_landmarks.',
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes, a PNG.")] = Path("placed.png"),
    prompt: Annotated[
        str | None,
        typer.Option(help="What is to be seen; {subject}, [V1], [V2] stand for what is placed."),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What is not to be seen.")] = None,
    style: Annotated[
        str | None, typer.Option(metavar="FILE", help="A picture that the whole is to be like.")
    ] = None,
    free: Annotated[bool, typer.Option("--free", help="Paint the whole picture.")] = False,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the method, other than it was trained."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the picture.")] = 0,
    version: Annotated[
        str, typer.Option(help="Of a subject's adapter, a number or an alias.")
    ] = "champion",
    replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="A word for how the subject looks that the prompt has another for; by default"
            " those of which it names another colour, pattern or material.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUBJECT=WEIGHT", help="Another subject's adapter that acts beside it."
        ),
    ] = None,
    weight: Annotated[float, typer.Option(help="Of the subject's own adapter.")] = 1.0,
    adapter: Annotated[
        Path | None, typer.Option(help="A method's adapter; by default data/trained/<method>.")
    ] = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Put a subject into a photo, or one to four things into places, as a method does it."""
    from PIL import Image

    from insitu.methods import Request
    from insitu.serving import places

    settings = load(params)
    if at:
        if box is not None:
            raise UserError(
                f"The box {box!r} was given beside --at.",
                "A box alone is a subject's; a method's places are all said with --at.",
                f'Write --at "box={box} ...".',
            )
        request = Request(
            image=places.canvas_of(image), placements=tuple(map(places.place_of, at)),
            prompt=prompt or "", seed=seed, negative_prompt=negative_prompt,
            background="free" if free else "keep",
            style=None if style is None else places.canvas_of(style),
        )  # fmt: skip
        if replace or also or weight != 1:
            raise UserError(
                f"{what} was asked with --at, and an option of subjects.",
                "A method that serves every subject has no attributes and one adapter.",
                "Leave out --replace, --also and --weight.",
            )
        folder = adapter or TRAINED / what
        painted, package = places.paint(settings, what, folder, request, changed or ())
        said = f"{what}, {package.digest[:12]}"
    else:
        if box is None:
            raise UserError(
                f"{what} was to be placed in {image}.",
                "Nothing says where.",
                "Add the subject's box as a third word, or a method's places with --at.",
            )
        if negative_prompt is not None or style or free or changed or adapter:
            raise UserError(
                f"The subject {what} was to be placed with an option of methods.",
                "A subject's registered adapter paints as it was measured.",
                "Leave out --negative-prompt, --style, --free, --set and --adapter.",
            )
        placed = _engine(settings).place(
            subject=what, image=places.canvas_of(image), box_xyxy01=places.box_of(box),
            prompt=prompt, seed=seed, version=version, replace=replace,
            also=places.weights_of(also or ()), weight=weight,
        )  # fmt: skip
        painted, said = placed.image, f"{placed.entry.name}, version {placed.entry.version}"
    Image.fromarray(painted).save(out, format="PNG")
    typer.echo(f"{out}: {said}")


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
    backbone = InpaintBackbone.load(settings.models.inpaint, device=device, precision=held)
    return Engine(
        backbone=backbone, store=store, method=settings.tune.method,
        vocabulary=settings.subjects.attributes.model_dump(),
    )  # fmt: skip


if __name__ == "__main__":
    app()
