"""`insitu study`: a blind preference study, served and counted."""

from pathlib import Path
from typing import Annotated

import typer

from insitu.cli.common import Group

study = typer.Typer(
    cls=Group, no_args_is_help=True, help="Blind preference studies: serve, results."
)
Folder = Annotated[Path, typer.Argument(help="The study's folder, with study.json.")]
Votes = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The votes; by default FOLDER/votes.jsonl.")
]


@study.command("serve")
def serve_study(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8100,
    votes: Votes = None,
) -> None:
    """Show voters the page, until Ctrl-C, and store what they choose."""
    import uvicorn

    from insitu.serving.study import VOTES
    from insitu.serving.study.app import make_app

    file = votes or folder / VOTES
    app = make_app(folder, file)
    typer.echo(f"http://{host}:{port}: votes go to {file}")
    # No access log: it would tell which address a voter has.
    uvicorn.run(app, host=host, port=port, access_log=False)


@study.command("results")
def study_results(
    folder: Folder,
    votes: Votes = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there, too.")
    ] = None,
) -> None:
    """Show each way's share of preference, how much voters agree, and whether orders balance."""
    import json

    from insitu.files import replace_text
    from insitu.serving.study import VOTES
    from insitu.serving.study.results import results

    found = results(folder, votes or folder / VOTES)
    typer.echo(found.text())
    if json_file is not None:
        replace_text(json_file, json.dumps(found.facts(), indent=2) + "\n")
