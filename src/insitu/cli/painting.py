"""`insitu serve`, `insitu place` and `insitu export`: adapters at work, here and elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from insitu.cli.common import SETTINGS, ParamsFile, store
from insitu.errors import UserError
from insitu.params import Params, load

if TYPE_CHECKING:
    from insitu.serving.engine import Engine

TRAINED = Path("data/trained")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    params: ParamsFile = SETTINGS,
) -> None:
    """Answer POST /v1/place with the champions."""
    import uvicorn

    from insitu.serving.app import make_app

    uvicorn.run(make_app(engine(load(params))), host=host, port=port)


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
        beside = places.weights_of(also or ())
        placed = engine(settings).place(
            subject=what, image=places.canvas_of(image), box_xyxy01=places.box_of(box),
            prompt=prompt, seed=seed, version=version, replace=replace,
            also=beside, weight=weight,
        )  # fmt: skip
        painted, said = placed.image, f"{placed.entry.name}, version {placed.entry.version}"
    Image.fromarray(painted).save(out, format="PNG")
    typer.echo(f"{out}: {said}")


def export(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder, such as data/adapters/a.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    form: Annotated[
        str, typer.Option(help="diffusers (load_lora_weights) or kohya (also ComfyUI).")
    ] = "diffusers",
) -> None:
    """Write a subject's adapter as a file that other programs load."""
    from insitu.registry.export import FORMS, export

    if form not in FORMS:
        raise UserError(
            f"The form {form!r} was asked for.",
            "There is no such one.",
            f"Use one of: {', '.join(FORMS)}.",
        )
    count = export(adapter, out, form)
    typer.echo(f"{out}: {count} tensors, {form}")


def engine(settings: Params) -> "Engine":
    """The store first: a server that is not there is refused before a model is loaded."""
    registered = store(settings)
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision
    from insitu.backbones.unet import InpaintBackbone
    from insitu.serving.engine import Engine

    device, held = choose_device(settings.device), Precision.of(settings.painting_base())
    backbone = InpaintBackbone.load(settings.models.inpaint, device=device, precision=held)
    return Engine(
        backbone=backbone, store=registered, method=settings.tune.method,
        vocabulary=settings.subjects.attributes.model_dump(),
    )  # fmt: skip
