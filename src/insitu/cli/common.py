"""What the commands have in common: refusals in three parts, the settings file, the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from insitu.errors import UserError
from insitu.params import Params

if TYPE_CHECKING:
    from insitu.registry.store import Store

PROBLEMS_FOUND = 1
REFUSED = 2


class Group(TyperGroup):
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


def store(settings: Params) -> "Store":
    from insitu.registry.signature import Keys
    from insitu.registry.store import Store

    own = settings.registry
    return Store.connect(own.tracking_uri, Keys.of(own.private_key, own.public_key))
