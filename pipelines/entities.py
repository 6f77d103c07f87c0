"""Stage `entities`: EliGen's data, captions drawn and what the pictures show written down.

Run from the repository's root: `python -m pipelines.entities`.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from insitu import world
from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.evaluation import data_page, written
from insitu.evaluation.checkpoints import Figure
from insitu.evaluation.gallery.page import DrawnBox, Line, Tile, Unit
from insitu.files import replace_text
from insitu.params import Params
from insitu.records import read, read_rejected
from insitu.records.engines import EntityPicture
from insitu.synthesis import entities
from insitu.synthesis.generators import pinned
from pipelines import _engines, _models, _step
from pipelines._paths import ENTITIES, ENTITIES_FIGURES, ENTITIES_PAGE

SHOWN = 16


def main(params: Params, report: _step.Report) -> None:
    own = params.entities
    count = _count(params)
    cut = _engines.numbers(count, params.runner.shard)
    models = [params.models.detector, params.models.clip]
    facts = _models.pins(params, *models) | own.model_dump()
    if own.generator == "flux":
        facts["by"] = pinned("flux", params.models.flux)
    if own.captions != "world":
        facts["file"] = file_digest(Path(own.captions))
    manifest = _engines.make(
        params,
        ENTITIES,
        EntityPicture,
        worker=_worker,
        rows=partial(_rows, params, cut),
        shards=len(cut),
        settings=facts | {"shares": [params.pairs.validation, params.pairs.test]},
        finish=_engines.card(
            ENTITIES,
            EntityPicture,
            title="Entities",
            text="Pictures with what they show: each entity with its own prompt and box, and a"
            " prompt for the whole (EliGen).",
            filters=entities.FILTERS,
            settings={"entities": own.model_dump()} | _engines.seeing(params),
            made_of={own.generator},
        ),
    )
    steps = data_page.steps(("captions", count), manifest, entities.FILTERS)
    print(" -> ".join(f"{count:,} {name}" for name, count in steps))
    figures = _measure(params) if own.generator == "world" else {}
    for name, figure in figures.items():
        print(f"{name}: {data_page.shown(figure)}")
    plain = {name: figure.rounded() for name, figure in figures.items()}
    replace_text(ENTITIES_FIGURES, json.dumps({"funnel": dict(steps)} | plain, indent=2) + "\n")
    data_page.publish(
        ENTITIES_PAGE,
        title="Entities",
        text="Captions are drawn, and what the picture shows is written down: each entity with its"
        " own prompt and box, and a prompt for the whole.",
        funnel_steps=steps,
        lines=data_page.lines("against the world's truth", figures),
        kept=data_page.sample(read(ENTITIES, EntityPicture), SHOWN, key="entities"),
        refused=data_page.sample_rejected(
            read_rejected(ENTITIES, EntityPicture), SHOWN, key="entities"
        ),
        show=_show,
    )
    report(
        _engines.counts(manifest)
        | {"page": str(ENTITIES_PAGE / "index.html"), "funnel": str(ENTITIES_PAGE / "funnel.png")}
    )


def _measure(params: Params) -> dict[str, Figure]:
    """What was written down of the world's scenes, against their truth."""
    truth = written.Truth()
    for row in read(ENTITIES, EntityPicture):
        scene = entities.scene_of(params.seed, int(row.id.rpartition("-")[2]))
        truth.add(
            [
                written.Written(word=e.word, box_xyxy01=e.box.xyxy01, text=e.prompt)
                for e in row.entities
            ],
            world.render(scene, params.entities.size),
        )
    return truth.figures()


def _count(params: Params) -> int:
    """How many captions there are; a user's file is read before any work starts."""
    own = params.entities
    if own.captions == "world":
        return own.count
    if own.generator == "world":
        raise entities.world_cannot_draw(own.captions)
    return min(own.count, len(_told(params)))


def _told(params: Params) -> list[entities.Asked]:
    """A user's captions."""
    file = Path(params.entities.captions)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The captions {file} were given in `entities.captions`.",
            f"They cannot be read as UTF-8 text: {error}.",
            "Give a text file with one caption a line, or `world`.",
        ) from None
    return entities.read_captions(lines, seed=params.seed)


def _rows(params: Params, cut: Sequence[range], index: int) -> list[entities.Asked]:
    numbers = cut[index]
    if params.entities.captions == "world":
        return entities.world_captions(numbers, seed=params.seed)
    return _told(params)[numbers.start : numbers.stop]


def _worker(params: Params) -> entities.Entities:
    own = params.entities
    tagger, tagging = _models.tagger(params)
    captioner, captioning = _models.captioner(params)
    drawer: entities.Drawer
    if own.generator == "world":
        drawer = entities.WorldDrawer(size=own.size, seed=params.seed)
    else:
        drawer = entities.FluxDrawer(_models.flux(params, own.size, own.flux))
    return entities.Entities(
        drawer=drawer,
        tagger=tagger,
        captioner=captioner,
        detector=_models.detector(params),
        clip=_models.clip(params),
        rules=entities.Rules(
            detection=params.perception.detection,
            smallest=own.smallest,
            most=own.most,
            agreement=own.agreement,
            shares=(params.pairs.validation, params.pairs.test),
        ),
        names=tuple(dict.fromkeys((*tagging, *captioning))),
    )


def _show(row: EntityPicture) -> Unit:
    boxes = tuple(
        DrawnBox(box_xyxy01=entity.box.xyxy01, colour=k) for k, entity in enumerate(row.entities)
    )
    lines = [Line(text=entity.prompt, colour=k) for k, entity in enumerate(row.entities)]
    return Unit(
        tiles=(Tile(image=row.image.array(), boxes=boxes),),
        text=row.prompt,
        note=f"asked: {row.asked}",
        lines=tuple(lines),
    )


if __name__ == "__main__":
    sys.exit(_step.run(main))
