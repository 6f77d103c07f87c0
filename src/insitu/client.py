"""A client of the HTTP API.

    from insitu.client import Client

    client = Client("http://127.0.0.1:8000")
    placed = client.place("dreammix.my-mug", "room.jpg", [{"box": (0.3, 0.4, 0.6, 0.8)}], seed=1)
    placed.image.save("placed.png")

Pictures are paths, bytes of a file, arrays (uint8 [H, W, 3]) or PIL images.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from PIL import Image as Pillow

from insitu.errors import UserError

Picture = Path | str | bytes | np.ndarray | Pillow.Image
PICTURES = ("mask", "reference")
BUSY = 429


class Refused(UserError):
    """The server refused, in three parts; `status` is HTTP's."""

    def __init__(self, status: int, given: str, why: str, todo: str) -> None:
        super().__init__(given, why, todo)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A painted picture, and which version of which adapter painted it."""

    png: bytes
    adapter: str
    version: str
    digest: str
    seed: int

    @property
    def image(self) -> Pillow.Image:
        return Pillow.open(io.BytesIO(self.png))


class Client:
    """One server. Waits where it is busy, up to `patience_s` seconds, as long as it asks for."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 600,
        patience_s: float = 60,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def methods(self) -> list[dict[str, Any]]:
        """The methods that are served, and what each takes."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/methods").json()["methods"]
        return found

    def adapters(self, method: str | None = None) -> Iterator[dict[str, Any]]:
        """All registered adapters, by name."""
        after: str | None = ""
        while after is not None:
            asked = {"after": after} | ({} if method is None else {"method": method})
            page = self._ask("GET", "/v1/adapters", params=asked).json()
            yield from page["adapters"]
            after = page["next"]

    def place(
        self,
        adapter: str,
        image: Picture | None = None,
        placements: Sequence[Mapping[str, Any]] = (),
        **more: Any,
    ) -> Placed:
        """Paint, and wait for it.

        Args:
            adapter: a registered name.
            image: the photo; None with `size=(width, height)` for a whole picture.
            placements: fields of the API's placements; masks and references are pictures.
            more: further fields of a request: prompt, seed, version, background, style, steps, ...

        Raises:
            Refused: the server does not do it.
        """
        form = _form(adapter, image, placements, more)
        answer = self._ask("POST", "/v1/place", headers={"Accept": "image/png"}, **form)
        told = {
            name: answer.headers[f"x-insitu-{name}"] for name in ("adapter", "version", "digest")
        }
        return Placed(png=answer.content, seed=int(answer.headers["x-insitu-seed"]), **told)

    def start(
        self,
        adapter: str,
        image: Picture | None = None,
        placements: Sequence[Mapping[str, Any]] = (),
        **more: Any,
    ) -> "Job":
        """As `place`, without waiting."""
        told = self._ask("POST", "/v1/jobs", **_form(adapter, image, placements, more)).json()
        return Job(self, told["id"], int(more.get("seed", 0)))

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._http.request(method, path, **more)
            except httpx.HTTPError as error:
                raise UserError(
                    f"The server {self._http.base_url} was asked for {path}.",
                    f"It does not answer: {error}",
                    "See that it runs (insitu serve) and listens there.",
                ) from None
            if answer.is_success:
                return answer
            pause = float(answer.headers.get("retry-after", "1"))
            if answer.status_code != BUSY or time.monotonic() + pause > deadline:
                raise _refused(answer)
            time.sleep(pause)


class Job:
    """A picture on its way."""

    def __init__(self, client: Client, id: str, seed: int) -> None:
        self._client, self.id, self._seed = client, id, seed

    def look(self) -> dict[str, Any]:
        """State and progress, as the server tells them."""
        found: dict[str, Any] = self._client._ask("GET", f"/v1/jobs/{self.id}").json()
        return found

    def wait(
        self, tell: Callable[[float], None] = lambda share: None, every_s: float = 0.2
    ) -> Placed:
        """The picture, when it is there.

        Args:
            tell: told the share of the sampling that is done.

        Raises:
            Refused: it failed or was cancelled.
        """
        while True:
            told = self.look()
            tell(told["progress"])
            if told["state"] == "done":
                break
            if told["state"] in ("failed", "cancelled"):
                why = told["error"] or {
                    "given": f"The job {self.id} was waited for.", "why": "It was cancelled.",
                    "to do": "Start it again.",
                }  # fmt: skip
                raise Refused(422, why["given"], why["why"], why["to do"])
            time.sleep(every_s)
        png = self._client._ask("GET", f"/v1/jobs/{self.id}/image").content
        own = {name: told[name] for name in ("adapter", "version", "digest")}
        return Placed(png=png, seed=self._seed, **own)

    def cancel(self) -> None:
        """End it."""
        self._client._ask("DELETE", f"/v1/jobs/{self.id}")


def _form(
    adapter: str,
    image: Picture | None,
    placements: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    files: dict[str, tuple[str, bytes, str]] = {}

    def part(name: str, picture: Picture) -> str:
        files[name] = (name, _bytes(picture), "application/octet-stream")
        return f"part:{name}"

    request: dict[str, Any] = {"adapter": adapter} | {
        name: value for name, value in more.items() if value is not None
    }
    if image is not None:
        request["image"] = part("photo", image)
    if more.get("style") is not None:
        request["style"] = part("style", more["style"])
    request["placements"] = [
        {
            name: part(f"{name}-{number}", value) if name in PICTURES else value
            for name, value in placement.items()
            if value is not None
        }
        for number, placement in enumerate(placements, start=1)
    ]
    text = json.dumps(request)
    return {"files": {"request": (None, text.encode(), "application/json"), **files}}


def _bytes(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise UserError(
                f"The file {picture} was given.",
                f"It cannot be read: {error.strerror}.",
                "Name a PNG, JPEG or WebP that is there.",
            ) from None
    if isinstance(picture, np.ndarray):
        picture = Pillow.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _refused(answer: httpx.Response) -> Refused:
    try:
        parts = answer.json()["error"]
        return Refused(answer.status_code, parts["given"], parts["why"], parts["to do"])
    except (ValueError, KeyError, TypeError):
        return Refused(
            answer.status_code, f"{answer.request.url} was asked for.",
            f"The answer was {answer.status_code}, and not one of insitu.",
            "See that this is the address of `insitu serve`.",
        )  # fmt: skip
