"""Stage `measure`: a method's adapter against its untrained self, on requests no training saw.

Run from the repository's root:

    python -m pipelines.measure eligen
"""

import argparse
import json
import sys
from pathlib import Path

from insitu.files import replace_text, replacing
from insitu.methods import VALIDATION
from insitu.params import Params
from insitu.registry.package import Package
from pipelines import _methods, _step
from pipelines._paths import TRAINED

REPORTS = Path("reports/trained")
SPLITS = ("test", VALIDATION)
"""Both held out: the latter is only looked at while it is trained."""


def main(params: Params, report: _step.Report, name: str) -> None:
    _step.quiet()
    from PIL import Image
    from safetensors.torch import load_file

    from insitu.backbones import bases
    from insitu.backbones.loading import choose_device, load_pretrained
    from insitu.backbones.precision import Precision
    from insitu.evaluation import tables, trained, trained_page
    from insitu.evaluation.checkpoints.judging import PRESENT
    from insitu.evaluation.findings import figures
    from insitu.evaluation.gallery.writing import write
    from insitu.methods import find
    from insitu.perception.clip import ClipScorer
    from insitu.perception.detector import ZeroShotDetector
    from insitu.perception.dino import IdentityEncoder
    from insitu.perception.face_finder import ZeroShotFaceFinder
    from insitu.perception.faces import FaceAnalyser

    device, models, own = choose_device(params.device), params.models, params.measure
    package = Package.open(TRAINED / name)
    method = find(package.card.method, package.card.settings["method"])
    backbone = bases.load(
        method.base, getattr(models, method.base), device=device,
        precision=Precision.of(params.painting_base()),
    )  # fmt: skip
    package.require_base(backbone.digest)
    detector = load_pretrained(ZeroShotDetector, models.detector, device=device)
    eyes = trained.Eyes(
        clip=load_pretrained(ClipScorer, models.clip, device=device),
        dino=load_pretrained(IdentityEncoder, models.dino, device=device),
        detector=detector,
        faces=ZeroShotFaceFinder(
            detector, load_pretrained(FaceAnalyser, models.face, device=device),
            threshold=params.perception.face,
        ),
        present=PRESENT,
    )  # fmt: skip
    done = trained.trial(
        method, backbone, load_file(package.weights),
        _methods.requests(params, name, SPLITS, own.requests), eyes.metrics(name),
        seeds=own.seeds, seed=params.seed,
    )  # fmt: skip
    summary = trained.summarize(done, seed=params.seed)
    with replacing(REPORTS / name) as fresh:
        write(trained_page.make(done, summary, title=f"{name}, trained and not"), fresh)
        Image.fromarray(trained_page.overview(done)).save(fresh / "overview.png")
        tables.write(fresh / tables.NAME, trained.rows(done))
    told = {metric: figures(found, trained.WAYS) for metric, found in summary.items()}
    replace_text(REPORTS / f"{name}.json", json.dumps(told, indent=2) + "\n")
    shown = {}
    for metric, found in summary.items():
        c, failed = found.comparison, (found.first_failed, found.second_failed)
        worst = f"  failed {failed[0]} and {failed[1]}" if any(failed) else ""
        shown[f"{metric}_gain"] = str(c.difference)
        print(
            f"{metric:16} trained {c.first}  untrained {c.second}  difference {c.difference}{worst}"
        )
    page = REPORTS / name / "index.html"
    report(shown | {"page": str(page), "overview": str(REPORTS / name / "overview.png")})
    print(f"wrote {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a trained method.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
