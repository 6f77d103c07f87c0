"""A study whose pictures the world draws: one way is right, one swaps looks, one errs in a thing;
and voters without a page."""

from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from insitu import world
from insitu.serving.study import IDENTITY_AND_PROMPT, VOTES, Item, Question, Shown, Study, write
from insitu.serving.study.app import make_app
from insitu.serving.study.votes import Vote

WAYS = ("ours", "baseline", "older")
FAULTS = {"ours": {}, "baseline": {"swapped attributes": 1.0}, "older": {"wrong identity": 1.0}}
TITLE = "Two things in a picture"


def drawn(
    count: int = 3,
    *,
    ways: tuple[str, ...] = WAYS,
    questions: tuple[Question, ...] = IDENTITY_AND_PROMPT,
    size: int = 64,
) -> tuple[Study, dict[str, NDArray[np.uint8]]]:
    """A study of `count` items and its pictures uint8 [size, size, 3]."""
    items, pictures = [], {}
    for number in range(count):
        rng = world.rng_for("study", number)
        scene = world.sample_scene(rng, count=2, people=False)
        context = []
        for place, thing in enumerate(scene.things, 1):
            file = f"pictures/{number}-reference-{place}.png"
            pictures[file] = world.portrait(thing, rng, size).image
            context.append(Shown(label=f"reference {place}", file=file))
        outputs = {way: f"pictures/{number}-{way}.png" for way in ways}
        for way, file in outputs.items():
            faulty, _ = world.inject(scene, rng, FAULTS[way])
            pictures[file] = world.render(faulty, size).image
        prompt = world.caption(scene, rng=rng)
        items.append(
            Item(id=f"scene-{number}", prompt=prompt, context=tuple(context), outputs=outputs)
        )
    return Study(title=TITLE, questions=questions, ways=ways, items=tuple(items)), pictures


def written(folder: Path, count: int = 3, **more: object) -> Study:
    study, pictures = drawn(count, **more)  # type: ignore[arg-type]
    write(folder, study, pictures)
    return study


def browser(folder: Path) -> TestClient:
    """One that has not voted yet."""
    return TestClient(make_app(folder, folder / VOTES))


def choose(client: TestClient, shown: dict[str, Any], number: int = 0, **changed: Any) -> Any:
    """A vote on the first question of an item that the browser was shown."""
    body = {
        "page": shown["page"], "item": shown["items"][number]["token"],
        "question": shown["questions"][0]["token"], "position": 0,
    }  # fmt: skip
    return client.post("/vote", json=body | changed)


def some_vote(voter: str = "a", item: int = 0, **changed: Any) -> Vote:
    given = {
        "voter": voter * 22, "item": f"scene-{item}", "question": "identity", "way": "ours",
        "shown": ["older", "ours", "baseline"], "time": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    return Vote.model_validate(given | changed)
