"""What trained methods are asked, and who judges them: the same for all that the gate compares."""

from typing import TYPE_CHECKING, Any

from insitu.digest import file_digest
from insitu.evaluation.measurement import Measurement
from insitu.methods import data_of
from insitu.params import Params
from insitu.records.manifest import MANIFEST
from insitu.registry.package import Package
from pipelines import _methods
from pipelines._judges import judges

if TYPE_CHECKING:
    from insitu.evaluation.trained import Trial


class TrainedBenchmark:
    """Methods on rows that no training saw; models are loaded once for each base."""

    def __init__(self, params: Params) -> None:
        from insitu.backbones.loading import choose_device, load_pretrained
        from insitu.evaluation import trained
        from insitu.evaluation.checkpoints.judging import PRESENT
        from insitu.perception.clip import ClipScorer
        from insitu.perception.detector import ZeroShotDetector
        from insitu.perception.dino import IdentityEncoder
        from insitu.perception.face_finder import ZeroShotFaceFinder
        from insitu.perception.faces import FaceAnalyser

        self.params, models = params, params.models
        self.device = choose_device(params.device)
        detector = load_pretrained(ZeroShotDetector, models.detector, device=self.device)
        self.eyes = trained.Eyes(
            clip=load_pretrained(ClipScorer, models.clip, device=self.device),
            dino=load_pretrained(IdentityEncoder, models.dino, device=self.device),
            detector=detector,
            faces=ZeroShotFaceFinder(
                detector, load_pretrained(FaceAnalyser, models.face, device=self.device),
                threshold=params.perception.face,
            ),
            present=PRESENT,
        )  # fmt: skip
        self._bases: dict[str, Any] = {}

    def trial(self, package: Package) -> "Trial":
        """Paint and judge a method's adapter, and the method with nothing learned.

        Raises:
            UserError: it was trained on another base, or there are no held-out rows.
        """
        from safetensors.torch import load_file

        from insitu.evaluation import trained
        from insitu.methods import find

        name, own = package.card.method, self.params.measure
        method = find(name, package.card.settings["method"])
        backbone = self._base(method.base)
        package.require_base(backbone.digest)
        asked = _methods.requests(self.params, name, _methods.HELD_OUT, own.requests)
        return trained.trial(
            method, backbone, load_file(package.weights), asked, self.eyes.metrics(name),
            seeds=own.seeds, seed=self.params.seed,
        )  # fmt: skip

    def measurement(self, name: str, done: "Trial") -> Measurement:
        """A trial's scores, for the gate."""
        sets = {each: file_digest(_methods.DATA / each / MANIFEST) for each in data_of(name).SETS}
        facts = {
            "asks": f"held-out rows, of {name}",
            "rows": sets,
            "seed": self.params.seed,
            **self.params.measure.model_dump(),
            **judges(self.params, "clip", "dino", "detector", "face"),
        }
        return Measurement(benchmark=facts, metrics=done.measured())

    def _base(self, base: str) -> Any:
        from insitu.backbones import bases
        from insitu.backbones.precision import Precision

        if base not in self._bases:
            held = Precision.of(self.params.painting_base())
            checkpoint = getattr(self.params.models, base)
            self._bases[base] = bases.load(base, checkpoint, device=self.device, precision=held)
        return self._bases[base]
