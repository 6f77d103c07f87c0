"""The report on the claims: pictures from where their pieces keep them, and what the gate reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from insitu.backbones.zoom import box_mask
from insitu.evaluation import tables
from insitu.evaluation.claims import overview, page, page_text
from insitu.evaluation.claims.page import Grid, Output, Shown
from insitu.evaluation.claims.registered import Grid as Asked
from insitu.evaluation.claims.registered import Registered
from insitu.files import replace_text, replacing
from pipelines._wanted import ASKED, FACTS, PICTURES, Place, asked_in, replicates

FOLDER = Path("reports/claims")
GRAY = 128
OVERVIEW, REPORT = FOLDER / "overview.png", "report.json"


def write(
    registered: Registered, found: dict[str, Any], runs: dict[str, Any] | None = None
) -> None:
    """`reports/index.html`, an overview as a picture, and a report of each method.

    Args:
        runs: addresses of MLflow's, as `claims_log.log` returns them.
    """
    grids = [
        _grid(registered, method, grid)
        for method, own in registered.methods.items()
        for grid in own.grids
    ]
    page.write(found, registered, grids, page.FILE, runs)
    with replacing(FOLDER) as fresh:
        Image.fromarray(overview.draw(found["claims"])).save(fresh / OVERVIEW.name)
        for method in registered.methods:
            told = _report(method, found)
            replace_text(fresh / method / REPORT, json.dumps(told, indent=1) + "\n")


def _report(method: str, found: dict[str, Any]) -> dict[str, Any]:
    """A method's own part: its claims, and what its adapters are."""
    return {
        "method": method, "made": found["made"], "arms": found["arms"].get(method, {}),
        "claims": [claim for claim in found["claims"] if claim["method"] == method],
    }  # fmt: skip


def _grid(registered: Registered, method: str, asked: Asked) -> Grid:
    """The first training's pictures; worst = of the first arm."""
    places = {
        arm: Place(method=method, arm=arm, replicate=replicates(registered, method, arm)[0]).table(
            asked.on
        )
        for arm in asked.arms
    }
    scores = {
        arm: tables.read(at / tables.NAME)[asked.metric].ravel() for arm, at in places.items()
    }
    first = places[asked.arms[0]]
    facts = json.loads((first / FACTS).read_text())
    folder = asked_in(facts["items"])
    told = json.loads((folder / ASKED).read_text())
    order = np.argsort(scores[asked.arms[0]], kind="stable")
    if asked.metric in page_text.LOWER:
        order = order[::-1]
    shown = [
        Shown(
            prompt=told[n]["prompt"], words=tuple(told[n]["words"]), keep=told[n]["keep"],
            photo=_given(_picture(folder / f"{n}.png"), told[n]),
            boxes=tuple(tuple(b) for b in told[n]["boxes"]),
            references=tuple(
                _picture(folder / f"{n}-{k}.png") for k in range(told[n]["references"])
            ),
            outputs=tuple(
                Output(
                    label=arm, image=_picture(at / PICTURES / f"{n}.png"),
                    score=float(scores[arm][n]),
                )
                for arm, at in places.items()
            ),
        )
        for n in _some(order.tolist())
    ]  # fmt: skip
    title = registered.methods[method].benchmarks[asked.on].of
    return Grid(
        method=method, title=f"{asked.on} ({title})", metric=asked.metric, shown=tuple(shown)
    )


def _some(order: list[int], worst: int = 6, best: int = 2) -> list[int]:
    """The worst, and at the end the best."""
    return order if len(order) <= worst + best else order[:worst] + order[-best:]


def _given(photo: Any, told: dict[str, Any]) -> Any:
    """What stays of a photo: its places are gray."""
    places = np.zeros(photo.shape[:2], np.bool_)
    for box in told["boxes"] if told["keep"] else ():
        places |= box_mask(tuple(box), photo) > 0
    return np.where(places[..., None], np.uint8(GRAY), photo)


def _picture(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB"))
