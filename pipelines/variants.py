"""Stage `variants`: what settings of painting are worth, on adapters as they are.

Run from the repository's root:

    python -m pipelines.variants lar_gen
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.edits import named
from insitu.files import replace_text, replacing
from insitu.methods import Placement, Request, find
from insitu.params import Params
from insitu.randomness import rng_for
from insitu.records import read
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import Package
from pipelines import _methods, _step
from pipelines._paths import ADAPTERS, MANIFEST, SUBJECTS, TRAINED

if TYPE_CHECKING:
    from insitu.evaluation.variants import Asked, Group, Variant

REPORTS = Path("reports/variants")


def main(params: Params, report: _step.Report, name: str) -> None:
    _step.quiet()
    from PIL import Image

    from insitu.backbones import bases
    from insitu.backbones.loading import choose_device, load_pretrained
    from insitu.backbones.precision import Precision
    from insitu.evaluation import tables, tuned, variants
    from insitu.evaluation.checkpoints.judging import PRESENT
    from insitu.perception.clip import ClipScorer
    from insitu.perception.detector import ZeroShotDetector
    from insitu.perception.dino import IdentityEncoder

    device, models, own = choose_device(params.device), params.models, params.variants
    backbone = bases.load(
        "inpaint", models.inpaint, device=device, precision=Precision.of(params.painting_base())
    )
    metrics = tuned.make_metrics(
        clip=load_pretrained(ClipScorer, models.clip, device=device),
        dino=load_pretrained(IdentityEncoder, models.dino, device=device),
        detector=load_pretrained(ZeroShotDetector, models.detector, device=device),
        threshold=PRESENT,
    )[:4]
    tuning = name == params.tune.method
    told: dict[str, Any] = {}
    rows: list[dict[str, object]] = []
    with replacing(REPORTS / name) as fresh:
        for asked, settings in getattr(own, name):
            groups = (_subjects if tuning else _rows)(params, backbone, name, asked)
            done = variants.run(groups, [{}, *settings], metrics, seeds=own.seeds, seed=params.seed)
            Image.fromarray(variants.overview(done)).save(fresh / f"{asked}.png")
            told[asked] = {}
            rows += variants.rows(done, asked)
            print(asked)
            for number, variant in enumerate(done.variants):
                words = variants.label(variant)
                found = done.comparisons(number, seed=params.seed)
                told[asked][words] = {
                    metric: {"mean": c.first.rounded(), "difference": c.difference.rounded()}
                    for metric, c in found.items()
                }
                print(f"  {words}")
                for metric, c in found.items():
                    print(f"    {metric:8} {c.first}  difference {c.difference}")
        tables.write(fresh / tables.NAME, rows)
    replace_text(REPORTS / f"{name}.json", json.dumps(told, indent=2) + "\n")
    report({"overviews": [str(REPORTS / name / f"{asked}.png") for asked in told]})
    print(f"wrote {REPORTS / name}")


def _rows(params: Params, backbone: Any, name: str, asked: str) -> "list[Group]":
    """Requests of what was never seen, all in one group: of held-out rows, `edits` with another
    colour, pattern or material; or of garments (`worn`).
    """
    from insitu.evaluation import trained, variants
    from insitu.evaluation.worn import worn

    package = Package.open(TRAINED / name)
    vocabulary = params.subjects.attributes.model_dump()
    if asked == "edits":  # of what captions say of an object, where tags say nothing
        own = params.lar_gen.model_copy(update={"captions": "regional"})
        params = params.model_copy(update={"lar_gen": own})
    found: list[Asked] = []
    most = params.variants.requests
    if asked == "worn":
        size, seed = params.quadruples.size, params.seed
        requests = [worn(number, size=size, seed=seed) for number in range(most)]
    else:
        requests = _methods.requests(params, name, _methods.HELD_OUT, 10_000)
    for number, request in enumerate(requests):
        entity = trained.entities(request)[0]
        if asked == "edits":
            rng = rng_for("edit", params.seed, number)
            edited = variants.recoloured(request.prompt, vocabulary, rng)
            if edited is None:
                continue
            request = replace(request, prompt=edited[0])
            entity = replace(entity, text=edited[0])
        found.append(variants.Asked(request=request, entity=entity))
        if len(found) == most:
            break
    return [variants.Group(asked=found, paint=_painter(backbone, package))]


def _subjects(params: Params, backbone: Any, name: str, asked: str) -> "list[Group]":
    """A group for each subject: `edits` of an attribute, or itself into `small` boxes."""
    from insitu.evaluation import variants
    from insitu.evaluation.placement import Reference, places

    own, vocabulary = params.variants, params.subjects.attributes.model_dump()
    rooms = places(own.scenes, size=params.evaluate.size, seed=params.seed)
    groups = []
    for subject in json.loads(MANIFEST.read_text()):
        package = Package.open(ADAPTERS / subject)
        reference = Reference.of(list(read(SUBJECTS / subject, SubjectPhoto)))
        found = [
            _of_subject(package, reference, room, asked, vocabulary, number)
            for number, room in enumerate(rooms)
        ]
        groups.append(variants.Group(asked=found, paint=_painter(backbone, package)))
    return groups


def _of_subject(
    package: Package, reference: Any, room: Any, asked: str,
    vocabulary: Mapping[str, Sequence[str]], number: int,
) -> "Asked":  # fmt: skip
    """A subject in a scene: with another word of one kind of its attributes, or small."""
    from insitu.evaluation import variants
    from insitu.evaluation.metrics import Entity

    card, box = package.card, room.box(reference.proportions)
    words, text = f"a {card.identifier} {card.class_word}", f"a {card.class_word}"
    gone: tuple[str, ...] = ()
    if asked == "edits":
        known = {k: v for k, v in (card.attributes or {}).items() if v}
        kind = sorted(known)[number % len(known)]
        rng = rng_for("edit", str(card.subject), number)
        new = str(rng.choice([w for w in vocabulary[kind] if w not in known[kind]]))
        text, gone = f"a {new} {card.class_word}", tuple(known[kind])
        words = f"a {named(str(card.identifier), f'{new} {card.class_word}', gone)}"
    else:
        box = variants.smaller(box, 0.5)
    return variants.Asked(
        request=Request(
            image=room.image, placements=(Placement(box_xyxy01=box),), prompt=words, seed=0,
            replaced=gone,
        ),
        entity=Entity(
            box_xyxy01=box, text=text, category=reference.class_word, references=reference.photos
        ),
    )  # fmt: skip


def _painter(
    backbone: Any, package: Package
) -> "Callable[[Variant, Sequence[Request]], list[Any]]":
    """Paints with an adapter that was loaded as it was trained, and settings that differ."""
    from safetensors.torch import load_file

    package.require_base(backbone.digest)
    weights, settings = load_file(package.weights), package.card.settings["method"]
    trained = find(package.card.method, settings)

    def paint(variant: "Variant", requests: Sequence[Request]) -> list[Any]:
        trained.load(backbone, weights)
        try:
            return find(package.card.method, {**settings, **variant}).paint(backbone, requests)
        finally:
            trained.detach(backbone)

    return paint


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare settings of painting.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
