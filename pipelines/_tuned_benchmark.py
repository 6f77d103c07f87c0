"""What tuned subjects are asked, and who judges them: the same for all that the gate compares."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.evaluation.measurement import Measurement
from insitu.params import Params
from insitu.records import read
from insitu.records.manifest import MANIFEST
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import Package
from pipelines._judges import judges
from pipelines._paths import SUBJECTS

if TYPE_CHECKING:
    from insitu.evaluation.tuned import Trial


class TunedBenchmark:
    """Tuned subjects in held-out scenes; models are loaded once."""

    def __init__(self, params: Params) -> None:
        from insitu.backbones.loading import choose_device, load_pretrained
        from insitu.backbones.precision import Precision
        from insitu.backbones.unet import InpaintBackbone
        from insitu.evaluation import tuned
        from insitu.evaluation.checkpoints.judging import PRESENT
        from insitu.evaluation.placement import places
        from insitu.perception.clip import ClipScorer
        from insitu.perception.detector import ZeroShotDetector
        from insitu.perception.dino import IdentityEncoder

        device, models, own = choose_device(params.device), params.models, params.evaluate
        self.params = params
        self.backbone = InpaintBackbone.load(
            models.inpaint, device=device, precision=Precision.of(params.painting_base())
        )
        self.metrics = tuned.make_metrics(
            clip=load_pretrained(ClipScorer, models.clip, device=device),
            dino=load_pretrained(IdentityEncoder, models.dino, device=device),
            detector=load_pretrained(ZeroShotDetector, models.detector, device=device),
            threshold=PRESENT,
        )
        self.rooms = places(own.scenes, size=own.size, seed=params.seed)

    def trial(self, package: Package) -> "Trial":
        """Paint and judge a subject's adapter.

        Raises:
            UserError: it was tuned on another base, or its subject's photos are not there.
        """
        from safetensors.torch import load_file

        from insitu.evaluation import tuned
        from insitu.methods import find

        package.require_base(self.backbone.digest)
        method: Any = find(package.card.method, package.card.settings["method"])

        def paint(requests: Sequence[Any]) -> Any:
            method.load(self.backbone, load_file(package.weights))
            try:
                return method.paint(self.backbone, requests)
            finally:
                method.detach(self.backbone)

        photos = list(read(_photos(str(package.card.subject)), SubjectPhoto))
        return tuned.trial(
            photos, self.rooms, seeds=self.params.evaluate.seeds, seed=self.params.seed,
            identifier=str(package.card.identifier), paint_tuned=paint, metrics=self.metrics,
            paint_untuned=functools.partial(method.paint, self.backbone),
        )  # fmt: skip

    def measurement(self, done: "Trial") -> Measurement:
        """A trial's scores, for the gate."""
        facts = {
            "asks": "a subject in held-out scenes",
            "photos": file_digest(_photos(done.subject) / MANIFEST),
            "seed": self.params.seed,
            **self.params.evaluate.model_dump(),
            **judges(self.params, "clip", "dino", "detector"),
        }
        return Measurement(benchmark=facts, metrics=done.measured())


def _photos(subject: str) -> Path:
    folder = SUBJECTS / subject
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"An adapter of the subject {subject} was to be measured.",
            f"There are no photos of it in {folder}, which its pictures are compared with.",
            "Bring it back, or draw it: dvc repro subjects.",
        )
    return folder
