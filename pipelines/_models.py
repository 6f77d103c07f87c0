"""Models of the data engines, from params.yaml; imported by what runs, not at start."""

from pathlib import Path
from typing import Any, TypeVar

from insitu.backbones.loading import choose_device, load_pretrained
from insitu.params import Checkpoint, Params
from insitu.params.engines import Flux
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.perception.face_finder import FaceFinder, ZeroShotFaceFinder
from insitu.perception.faces import FaceAnalyser
from insitu.perception.language import LanguageModel
from insitu.perception.segmenter import GrabCut, Sam, Segmenter
from insitu.synthesis.generators import FluxGenerator, FluxSettings, pinned
from insitu.synthesis.judging import EmbeddingJudge, Judge, LanguageJudge
from insitu.synthesis.reading import (
    Captioner,
    LanguageCaptioner,
    LanguageTagger,
    Tagger,
    ZeroShotCaptioner,
    ZeroShotTagger,
)
from pipelines import _step

T = TypeVar("T")


def detector(params: Params) -> ZeroShotDetector:
    _step.quiet()
    device = choose_device(params.device)
    found: ZeroShotDetector = load_pretrained(
        ZeroShotDetector, params.models.detector, device=device
    )
    return found


def clip(params: Params) -> ClipScorer:
    _step.quiet()
    device = choose_device(params.device)
    found: ClipScorer = load_pretrained(ClipScorer, params.models.clip, device=device)
    return found


def dino(params: Params) -> IdentityEncoder:
    _step.quiet()
    device = choose_device(params.device)
    found: IdentityEncoder = load_pretrained(IdentityEncoder, params.models.dino, device=device)
    return found


def flux(params: Params, size: int, settings: Flux) -> FluxGenerator:
    _step.quiet()
    return FluxGenerator(
        FluxSettings(
            checkpoint=params.models.flux,
            device=params.device,
            dtype=params.dtype,
            size=size,
            **settings.model_dump(),
        )
    )


def language(params: Params, kind: str) -> LanguageModel:
    """The vision-language model that `perception` names `endpoint` or `local`."""
    settings: Any = getattr(params.perception, kind)
    if kind == "endpoint":
        from insitu.perception.language.endpoint import EndpointModel

        return EndpointModel(**settings.model_dump())
    _step.quiet()
    from insitu.perception.language.local import LocalModel

    options = settings.model_dump(exclude={"path", "revision"})
    model: LanguageModel = load_pretrained(
        LocalModel, settings, device=choose_device(params.device), **options
    )
    return model


def judge(params: Params) -> tuple[Judge, tuple[str, ...]]:
    """The judge of filters B and C, and what pins it."""
    kind = params.perception.judge
    if kind == "embeddings":
        names = (pinned("dino", params.models.dino), pinned("clip", params.models.clip))
        return EmbeddingJudge(dino=dino(params), clip=clip(params)), names
    model = language(params, kind)
    return LanguageJudge(model), (model.name,)


def segmenter(params: Params) -> Segmenter:
    if params.perception.segmenter == "grabcut":
        return GrabCut()
    _step.quiet()
    found: Sam = load_pretrained(
        Sam, _given(params.perception.sam), device=choose_device(params.device)
    )
    return found


def faces(params: Params) -> FaceFinder:
    if params.perception.faces == "insightface":
        from insitu.perception.insightface import InsightFace

        files = _given(params.perception.insightface)
        return InsightFace.from_files(
            detector=Path(files.detector.path),
            detector_sha256=files.detector.sha256,
            embedder=Path(files.embedder.path),
            embedder_sha256=files.embedder.sha256,
        )
    _step.quiet()
    return ZeroShotFaceFinder(
        detector(params),
        load_pretrained(FaceAnalyser, params.models.face, device=choose_device(params.device)),
        threshold=params.perception.face,
        name=f"{pinned('face', params.models.face)}, {pinned('detector', params.models.detector)}",
    )


def tagger(params: Params) -> tuple[Tagger, tuple[str, ...]]:
    """Names things, and what pins it."""
    own = params.perception
    if own.tagger == "clip":
        names = (pinned("detector", params.models.detector), pinned("clip", params.models.clip))
        zero_shot = ZeroShotTagger(
            detector=detector(params),
            clip=clip(params),
            things=own.things,
            not_things=own.not_things,
            threshold=own.detection,
        )
        return zero_shot, names
    model = language(params, own.tagger)
    return LanguageTagger(model, own.not_things), (model.name,)


def captioner(params: Params) -> tuple[Captioner, tuple[str, ...]]:
    """Describes crops and pictures, and what pins it."""
    own = params.perception
    if own.captioner == "clip":
        zero_shot = ZeroShotCaptioner(
            clip=clip(params),
            attributes=params.subjects.attributes.model_dump(),
            places=own.places,
            clothes=own.clothes,
        )
        return zero_shot, (pinned("clip", params.models.clip),)
    model = language(params, own.captioner)
    return LanguageCaptioner(model), (model.name,)


def pins(params: Params, *models: Checkpoint) -> dict[str, Any]:
    """What decides the models' answers, for the digest of a stage's inputs."""
    return {
        "perception": params.perception.model_dump(),
        "attributes": params.subjects.attributes.model_dump(),
        "models": [pinned("", model) for model in models],
    }


def _given(setting: T | None) -> T:
    assert setting is not None  # `Perception` refuses a name without its setting
    return setting
