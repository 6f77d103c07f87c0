"""Checkpoints made of published parts."""

from pathlib import Path
from typing import Annotated

import typer


def fooocus(
    base: Annotated[Path, typer.Argument(help="A pipeline's folder: SDXL for text-to-image.")],
    head: Annotated[Path, typer.Argument(help="fooocus_inpaint_head.pth")],
    patch: Annotated[Path, typer.Argument(help="inpaint_v26.fooocus.patch")],
    out: Annotated[Path, typer.Argument(help="The folder to write, for models.inpaint.")],
    weight: Annotated[float, typer.Option(help="Multiplies what the patch adds.")] = 1.0,
) -> None:
    """Make a base for inpainting of SDXL with Fooocus' inpaint head and patch."""
    from insitu.backbones.fooocus import bake

    count = bake(base, head, patch, out, weight=weight)
    typer.echo(f"{out}: {count} weights patched; set models.inpaint.path to it")
