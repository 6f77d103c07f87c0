"""`insitu serve`, `insitu place` and `insitu export`: adapters at work, here and elsewhere."""

import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from insitu.cli.common import SETTINGS, ParamsFile, store
from insitu.errors import UserError
from insitu.params import Params, load

if TYPE_CHECKING:
    from insitu.methods import Image, Request
    from insitu.registry.store import Entry
    from insitu.serving.engine import Wish

TRAINED = Path("data/trained")
KeysFile = Annotated[
    Path | None, typer.Option("--keys", metavar="FILE", help="API keys; by default serving.keys.")
]
KEY = "INSITU_KEY"
"""The environment variable with a server's API key."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    painters: Annotated[
        int, typer.Option(min=0, help="On Ray Serve, with so many that paint; 0 = in this process.")
    ] = 0,
    keys: KeysFile = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Answer requests with the registered adapters, and show the studio at /."""
    # A server asks no hub: what it needs is here before, or it does not begin.
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")
    settings = _with_keys(load(params), keys)
    if settings.serving.keys is None and host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(
            f"The server was to listen at {host}, without keys.",
            "Whoever reaches that address could have it paint.",
            "Make a key (insitu serve-key NAME --keys FILE), and give --keys, or serving.keys.",
        )
    if painters:
        from insitu.serving import on_ray

        on_ray.run(settings, host=host, port=port, replicas=painters)
        return
    import uvicorn

    from insitu.serving.app import make_app
    from insitu.serving.guards import configure_logs
    from insitu.serving.service import make

    configure_logs()
    own = settings.serving
    # More than may wait are refused with a reason; beyond that, connections are not even read.
    uvicorn.run(
        make_app(make(settings)), host=host, port=port, access_log=False, log_level="warning",
        timeout_graceful_shutdown=math.ceil(own.drain_s), limit_concurrency=4 * own.queue + 100,
        server_header=False,
    )  # fmt: skip


def serve_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, place or metrics; once for each. By default read and place."),
    ] = None,
    keys: KeysFile = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Make an API key, and keep its digest in the file of serving.keys; it is shown once."""
    from insitu.serving.keys import SCOPES, add

    file = _with_keys(load(params), keys).serving.keys
    if file is None:
        raise UserError(
            f"A key for {name} was to be made.",
            "serving.keys names no file to keep it in.",
            "Name one in params.yaml, outside of the repository, or with --keys.",
        )
    for given in scope or ():
        if given not in SCOPES:
            raise UserError(
                f"The scope {given!r} was given.",
                "There is no such one.",
                f"Use one of: {', '.join(SCOPES)}.",
            )
    chosen = [one for one in SCOPES if one in (scope or ("read", "place"))]
    typer.echo(add(Path(file), name, chosen))


def _with_keys(settings: Params, keys: Path | None) -> Params:
    if keys is None:
        return settings
    own = settings.serving.model_copy(update={"keys": str(keys)})
    return settings.model_copy(update={"serving": own})


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
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help=f"Have a server paint, with registered adapters; a key in {KEY}."
        ),
    ] = None,
    params: ParamsFile = SETTINGS,
) -> None:
    """Put a subject into a photo, or one to four things into places, as a method does it."""
    from PIL import Image

    from insitu.methods import Placement, Request
    from insitu.serving import places
    from insitu.serving.engine import Wish

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
        if server is not None:
            _require_registered(changed, adapter)
            painted, said = _by_server(server, what, version, request)
        else:
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
        wish = Wish(
            adapter=f"{settings.tune.method}.{what}", version=version,
            image=places.canvas_of(image),
            placements=(Placement(box_xyxy01=places.box_of(box)),), prompt=prompt, seed=seed,
            replace=replace, also=places.weights_of(also or ()), weight=weight,
        )  # fmt: skip
        if server is not None:
            painted, said = _by_server(
                server, wish.adapter, version, wish, replace=replace, also=dict(wish.also),
                weight=weight,
            )  # fmt: skip
        else:
            painted, entry = _placed(settings, wish)
            said = f"{entry.name}, version {entry.version}"
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


def _placed(settings: Params, wish: "Wish") -> "tuple[Image, Entry]":
    """The store first: a server that is not there is refused before a model is loaded."""
    store(settings)
    from insitu.serving.service import loader, make_engine

    with tempfile.TemporaryDirectory() as folder:
        here = settings.serving.model_copy(update={"folder": folder})
        params = settings.model_copy(update={"serving": here})
        engine = make_engine(params, loader(params, "inpaint"))
        asked = engine.ask(wish)
        return engine.paint([asked])[0], asked.entry


def _by_server(
    url: str, adapter: str, version: str, asked: "Request | Wish", **more: Any
) -> "tuple[Image, str]":
    """A picture from a server, and what painted it."""
    import numpy as np

    from insitu.client import Client

    given = [
        {
            "box": None if placement.mask is not None else placement.box_xyxy01,
            "mask": placement.mask, "reference": placement.reference, "prompt": placement.prompt,
            "landmarks": placement.landmarks_xy01,
            "reference_landmarks": placement.reference_landmarks_xy01,
        }
        for placement in asked.placements
    ]  # fmt: skip
    with Client(url, key=os.environ.get(KEY)) as client:
        placed = client.place(
            adapter, asked.image, given, version=version, prompt=asked.prompt, seed=asked.seed,
            negative_prompt=asked.negative_prompt, background=asked.background, style=asked.style,
            **more,
        )  # fmt: skip
    said = f"{placed.adapter}, version {placed.version}, {placed.digest[:12]}"
    return np.array(placed.image.convert("RGB")), said


def _require_registered(changed: list[str] | None, adapter: Path | None) -> None:
    if changed or adapter:
        raise UserError(
            "A server was asked with an adapter of this machine, or another setting of a method.",
            "It paints with registered adapters, as they were measured.",
            "Leave out --adapter and --set, or paint here, without --server.",
        )
