"""Stage `quadruples`: LAR-Gen's data, objects of still images with masks and regional captions.

Run from the repository's root: `python -m pipelines.quadruples`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from insitu import world
from insitu.evaluation import data_page, written
from insitu.evaluation.checkpoints import Figure
from insitu.evaluation.gallery.page import DrawnBox, Tile, Unit
from insitu.files import replace_text
from insitu.params import Params
from insitu.records import read, read_rejected
from insitu.records.engines import Quadruple
from insitu.records.pictures import Picture
from insitu.synthesis import quadruples
from pipelines import _engines, _models, _step
from pipelines._paths import IMAGES, QUADRUPLES, QUADRUPLES_FIGURES, QUADRUPLES_PAGE

SHOWN = 12


def main(params: Params, report: _step.Report) -> None:
    own = params.quadruples
    cut = _engines.numbers(own.count, params.runner.shard)
    from_world = own.source == "world"
    manifest = _engines.make(
        params,
        QUADRUPLES,
        Quadruple,
        worker=_worker,
        rows=partial(_drawn, params, cut) if from_world else _own,
        shards=len(cut) if from_world else _engines.shards_of(IMAGES),
        settings=_models.pins(params, params.models.detector, params.models.clip)
        | own.model_dump()
        | {"shares": [params.pairs.validation, params.pairs.test]},
        inputs=[] if from_world else [IMAGES],
        finish=_engines.card(
            QUADRUPLES,
            Quadruple,
            title="Quadruples",
            text="Objects of still images: source image, mask, subject image and regional text"
            " (LAR-Gen).",
            filters=quadruples.FILTERS,
            settings={"quadruples": own.model_dump()} | _engines.seeing(params),
            made_of={own.source},
        ),
    )
    objects = manifest.rows + manifest.rejected_rows
    failed = len(manifest.set_aside)
    steps = data_page.steps(("objects", objects + failed), manifest, quadruples.FILTERS)
    print(" -> ".join(f"{count:,} {name}" for name, count in steps))
    figures = _measure(params) if from_world else {}
    for name, figure in figures.items():
        print(f"{name}: {data_page.shown(figure)}")
    plain = {name: figure.rounded() for name, figure in figures.items()}
    replace_text(QUADRUPLES_FIGURES, json.dumps({"funnel": dict(steps)} | plain, indent=2) + "\n")
    data_page.publish(
        QUADRUPLES_PAGE,
        title="Quadruples",
        text="Objects of still images: source image, mask, subject image and regional text.",
        funnel_steps=steps,
        lines=data_page.lines("against the world's truth", figures),
        kept=data_page.sample(read(QUADRUPLES, Quadruple), SHOWN, key="quadruples"),
        refused=data_page.sample_rejected(
            read_rejected(QUADRUPLES, Quadruple), SHOWN, key="quadruples"
        ),
        show=_show,
    )
    report(
        _engines.counts(manifest)
        | {
            "page": str(QUADRUPLES_PAGE / "index.html"),
            "funnel": str(QUADRUPLES_PAGE / "funnel.png"),
        }
    )


def _measure(params: Params) -> dict[str, Figure]:
    """What was written down of the world's scenes, against their truth."""
    truth = written.Truth()
    rows = written.by_picture(
        (
            row.id.partition("/")[0],
            written.Written(
                word=row.tag,
                box_xyxy01=row.box.xyxy01,
                text=row.text,
                mask=row.mask.array()[..., 0] > 0,
            ),
        )
        for row in read(QUADRUPLES, Quadruple)
    )
    for number in range(params.quadruples.count):
        scene = quadruples.still_scene(number, params.seed)
        own = rows.get(f"still-{number:07d}", [])
        truth.add(own, world.render(scene, params.quadruples.size))
    return truth.figures()


def _drawn(params: Params, cut: Sequence[range], index: int) -> Iterator[quadruples.Still]:
    shares = (params.pairs.validation, params.pairs.test)
    for number in cut[index]:
        yield quadruples.world_still(
            number, size=params.quadruples.size, seed=params.seed, shares=shares
        )


def _own(index: int) -> Iterator[quadruples.Still]:
    for picture in read(IMAGES, Picture, shards=[index]):
        yield quadruples.own_still(picture)


def _worker(params: Params) -> quadruples.Quadruples:
    own = params.quadruples
    tagger, tagging = _models.tagger(params)
    captioner, captioning = _models.captioner(params)
    return quadruples.Quadruples(
        tagger=tagger,
        detector=_models.detector(params),
        segmenter=_models.segmenter(params),
        captioner=captioner,
        rules=quadruples.Rules(
            detection=params.perception.detection,
            smallest=own.smallest,
            largest=own.largest,
            fits=own.fits,
        ),
        names=tuple(dict.fromkeys((*tagging, *captioning))),
    )


def _show(row: Quadruple) -> Unit:
    tiles = (
        Tile(image=row.image.array(), boxes=(DrawnBox(box_xyxy01=row.box.xyxy01),), label="source"),
        Tile(image=row.mask.array(), label=f"mask, {row.area:.0%}"),
        Tile(image=row.subject.array(), label="subject"),
    )
    return Unit(tiles=tiles, text=row.text, note=f"whole: {row.global_text}")


if __name__ == "__main__":
    sys.exit(_step.run(main))
