"""The study's page and what it asks for; nothing that it sends tells one way from another.

`GET /study` says what a voter is to see, pictures as `/picture/<token>`; `POST /vote` stores a
choice by the position it was shown at. Which way that was, only the server knows.
"""

import io
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from insitu.errors import UserError
from insitu.serving.study import folder as files
from insitu.serving.study import votes as stored
from insitu.serving.study.blinding import Blinding, key_beside
from insitu.serving.study.folder import Item, Study
from insitu.serving.study.votes import Vote

MAX_BODY = 4096
VOTER = "insitu_voter"
"""The cookie with a voter's random id, out of reach of the page's own code."""
A_YEAR_S = 365 * 24 * 3600
PAGE = Path(__file__).parent / "page"
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/zoom.js": ("zoom.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Choice(BaseModel):
    """A vote as the page sends it. Items and questions are named by their tokens."""

    model_config = ConfigDict(extra="forbid")

    page: Annotated[str, Field(max_length=64)]
    item: Annotated[str, Field(max_length=64)]
    question: Annotated[str, Field(max_length=64)]
    position: Annotated[int, Field(strict=True)] | None
    name: Annotated[str, StringConstraints(max_length=80, strip_whitespace=True)] = ""


class Desk:
    """A study on disk with its votes: what a voter is shown, and what a vote means."""

    def __init__(self, folder: Path, votes: Path) -> None:
        self.study: Study = files.read(folder)
        self.folder, self.votes = folder, votes
        stored.check(stored.read(votes), self.study, votes)  # before anybody votes
        self.blinding = Blinding(key_beside(votes))
        token = self.blinding.token
        self.items = {token("item", item.id): item for item in self.study.items}
        self.questions = {token("question", asked.id): asked for asked in self.study.questions}
        self.pictures = {
            self.address(item, file): folder / file
            for item in self.study.items
            for file in item.files()
        }
        self.sizes = {address: _size(path) for address, path in self.pictures.items()}

    def address(self, item: Item, file: str) -> str:
        return self.blinding.token("picture", item.id, file)

    def order(self, voter: str, item: Item) -> tuple[str, ...]:
        """The ways as this voter sees them, from the left."""
        return self.blinding.order(self.study.ways, voter, item.id)

    def page(self, voter: str) -> str:
        """Whose page it is: a vote from another voter's page would mean another way."""
        return self.blinding.token("page", voter)

    def shown_to(self, voter: str) -> dict[str, Any]:
        """The study as JSON for a voter, with what the voter has answered so far."""
        items = {item.id: (token, item) for token, item in self.items.items()}
        order = self.blinding.order(tuple(items), voter)
        return {
            "title": self.study.title,
            "page": self.page(voter),
            "questions": [
                {"token": token, "text": asked.text} for token, asked in self.questions.items()
            ],
            "items": [self._item(voter, *items[name]) for name in order],
            "answers": self._answers(voter),
        }

    def _item(self, voter: str, token: str, item: Item) -> dict[str, Any]:
        outputs = [item.outputs[way] for way in self.order(voter, item)]
        return {
            "token": token,
            "prompt": item.prompt,
            "context": [
                {"label": shown.label} | self._picture(item, shown.file) for shown in item.context
            ],
            "outputs": [self._picture(item, file) for file in outputs],
        }

    def _picture(self, item: Item, file: str) -> dict[str, Any]:
        address = self.address(item, file)
        width, height = self.sizes[address]
        return {"address": f"/picture/{address}", "width": width, "height": height}

    def _answers(self, voter: str) -> dict[str, dict[str, int | None]]:
        """Position, or None for no difference, by item and question."""
        found: dict[str, dict[str, int | None]] = {}
        by_id = {item.id: (token, item) for token, item in self.items.items()}
        asked = {question.id: token for token, question in self.questions.items()}
        own = (vote for vote in stored.read(self.votes) if vote.voter == voter)
        for vote in stored.latest(own).values():
            token, item = by_id[vote.item]
            position = None if vote.way is None else self.order(voter, item).index(vote.way)
            found.setdefault(token, {})[asked[vote.question]] = position
        return found

    def vote(self, voter: str, choice: Choice) -> None:
        """Store a choice.

        Raises:
            UserError: it names no item, question or position of this study, comes from another
                voter's page, or cannot be stored.
        """
        if choice.page != self.page(voter):
            raise _unknown("page", "It was opened before this browser's cookie was changed.")
        if choice.item not in self.items:
            raise _unknown("item", "The study has no such item.")
        if choice.question not in self.questions:
            raise _unknown("question", "The study has no such question.")
        ways, item = self.study.ways, self.items[choice.item]
        if choice.position is not None and not 0 <= choice.position < len(ways):
            raise _unknown("position", f"Positions are 0 to {len(ways) - 1}, or null.")
        shown = self.order(voter, item)
        vote = Vote(
            voter=voter, name=choice.name, item=item.id,
            question=self.questions[choice.question].id,
            way=None if choice.position is None else shown[choice.position],
            shown=shown, time=datetime.now(UTC),
        )  # fmt: skip
        stored.append(self.votes, vote)


def make_app(folder: Path, votes: Path) -> FastAPI:
    """The application around a study's folder and its votes file.

    Raises:
        UserError: as `folder.read`; also if the votes file or its key is broken, or the votes are
            another study's.
    """
    desk = Desk(folder, votes)
    app = FastAPI(title="study", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def bound_body(request: Request, call_next):  # type: ignore[no-untyped-def]
        declared = request.headers.get("content-length")
        if request.method == "POST" and (declared is None or int(declared) > MAX_BODY):
            refusal = UserError(
                f"A body of {declared or 'unknown'} bytes was sent.",
                f"At most {MAX_BODY} bytes are taken, and their number has to be declared.",
                "Send a vote, and nothing else.",
            )
            return _refusal(413, refusal)
        answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> Response:
        return _refusal(422, error)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return _refusal(422, _unknown("vote", f"{where}: {first['msg']}."))

    @app.get("/study")
    def study(insitu_voter: Annotated[str | None, Cookie()] = None) -> Response:
        voter = _known(insitu_voter) or secrets.token_urlsafe(16)
        answer = JSONResponse(desk.shown_to(voter), headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            VOTER, voter, max_age=A_YEAR_S, httponly=True, samesite="strict", path="/"
        )
        return answer

    @app.post("/vote")
    def vote(choice: Choice, insitu_voter: Annotated[str | None, Cookie()] = None) -> Response:
        voter = _known(insitu_voter)
        if voter is None:
            raise UserError(
                "A vote was sent without a voter.",
                "A cookie tells one voter from another, and the browser sent none.",
                "Allow cookies for this page, and load it again.",
            )
        desk.vote(voter, choice)
        return JSONResponse({"stored": True})

    @app.get("/picture/{token}")
    def picture(token: str) -> Response:
        path = desk.pictures.get(token)
        if path is None:
            return _refusal(404, _unknown("picture", "The study has no such picture."))
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(_pixels(path), media_type="image/png", headers=kept)

    for address, (name, kind) in ASSETS.items():
        app.get(address)(_asset(PAGE / name, kind))
    return app


def _asset(path: Path, kind: str) -> Any:
    content = path.read_text(encoding="utf-8")

    def asset() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return asset


def _pixels(path: Path) -> bytes:
    """A picture written anew: texts, times and profiles in a file may say which way made it."""
    picture = files.open_picture(path)
    picture.info.clear()
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _size(path: Path) -> tuple[int, int]:
    with Pillow.open(path, formats=("PNG",)) as picture:
        return picture.size


def _known(voter: str | None) -> str | None:
    return voter if voter and re.fullmatch(r"[A-Za-z0-9_-]{22}", voter) else None


def _unknown(what: str, why: str) -> UserError:
    return UserError(f"A vote named a {what}.", why, "Load the page again, then vote.")


def _refusal(status: int, error: UserError) -> JSONResponse:
    parts = {"given": error.given, "why": error.why, "to do": error.todo}
    return JSONResponse({"error": parts}, status_code=status, headers=HEADERS)
