"""The detector: OWL-ViT, grown from the trained CLIP and tuned on scenes with a set loss."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
)
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from insitu import world
from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.evaluation.checkpoints.detector import figures, pick_threshold, targets
from insitu.perception.detector import ZeroShotDetector

from . import corpus, detection_loss, detector_data, detector_grid, muon
from .card import write_card
from .clip_model import MEAN, STD, to_pixels
from .loop import FitResult, code_digest, fit, trapezoid
from .settings import read
from .tokenizers import compact

LENGTH = 32  # tokens of a query; OWL-ViT's own 16 are too few for a person with all details
FIRST_SCALE, FIRST_SHIFT = 10.0, -0.45  # logits start at 10 (cosine - 0.45): rarely positive
TEXT_SHARE = 0.1  # of the learning rate: the words are known, only the seeing changes much


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `detector` of params.yaml.

    Attributes:
        draws: scenes of the corpus.
        steps: optimizer steps on `batch` scenes, each asked for every category and at most
            `details` longer queries.
        lr: Muon's, on the blocks' matrices; `rest_lr` is AdamW's on everything else.
        warmup, cooldown: steps of the learning rate's ramp up and down.
        workers: processes that draw the corpus.
    """

    draws: int
    steps: int
    batch: int
    details: int
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    ema: float
    workers: int


def from_clip(clip: CLIPModel) -> OwlViTForObjectDetection:
    """An OWL-ViT with CLIP's two towers and fresh heads.

    Raises:
        UserError: the towers do not fit; nothing is left out silently.
    """
    config = OwlViTConfig(
        text_config=clip.config.text_config.to_dict() | {"max_position_embeddings": LENGTH},
        vision_config=clip.config.vision_config.to_dict(),
        projection_dim=clip.config.projection_dim,
    )
    torch.manual_seed(0)
    model = OwlViTForObjectDetection(config)
    state = {
        f"owlvit.{key.replace('pre_layrnorm', 'pre_layernorm')}": value
        for key, value in clip.state_dict().items()
    }
    places = "owlvit.text_model.embeddings.position_embedding.weight"
    state[places] = state[places][:LENGTH]
    missing, unexpected = model.load_state_dict(state, strict=False)
    lost = [key for key in missing if key.startswith("owlvit.")] + list(unexpected)
    if lost:
        raise UserError(
            f"The CLIP checkpoint's weights do not fit OWL-ViT ({', '.join(lost[:3])}, ...).",
            "The detector's towers are CLIP's, weight by weight.",
            "Train CLIP again with this version of the recipe.",
        )
    head = model.class_head
    # The class token already answers queries in CLIP's space; patches start from its projection.
    head.dense0.weight.data.copy_(clip.visual_projection.weight)
    for layer, value in ((head.logit_scale, FIRST_SCALE), (head.logit_shift, FIRST_SHIFT)):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
    nn.init.zeros_(head.dense0.bias)
    # transformers draws these heads with a spread of 1 a weight, which saturates every box.
    boxes = model.box_head
    for layer, spread in ((boxes.dense0, 0.1), (boxes.dense1, 0.1), (boxes.dense2, 0.01)):
        nn.init.normal_(layer.weight, std=spread)
    # Things are larger than the one patch that the box's bias assumes.
    boxes.dense2.bias.data[2:] = 1.5
    return model


def predict(
    model: OwlViTForObjectDetection, pixels_N3HW: Tensor, ids_QT: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logits [N, P, Q] and boxes [N, P, 4] (centre, size); every image gets every query."""
    feature_map, _ = model.image_embedder(pixels_N3HW)
    features = feature_map.flatten(1, 2)
    text = model.owlvit.text_model(input_ids=ids_QT).pooler_output
    queries = model.owlvit.text_projection(text)[None].expand(len(features), -1, -1)
    logits, _ = model.class_predictor(features, queries)
    return logits, model.box_predictor(features, feature_map)


class Trainer:
    """The corpus and the loss of a step."""

    def __init__(
        self,
        settings: Settings,
        model: OwlViTForObjectDetection,
        tokenizer: CLIPTokenizer,
        scenes: detector_data.Corpus,
    ) -> None:
        self.settings, self.model, self.scenes = settings, model, scenes
        encoded = tokenizer(list(scenes.texts), padding="max_length", max_length=LENGTH)
        self.ids = torch.tensor(encoded["input_ids"])
        assert self.ids.shape[1] == LENGTH, "a query is longer than the text tower"
        self.end = tokenizer.eos_token_id

    def step(self, i: int) -> dict[str, Tensor]:
        """Return the loss terms of step `i`."""
        batch = self.scenes.batch(i, self.settings.batch)
        ids = self.ids[torch.from_numpy(batch.queries)]
        ids = ids[:, : int((ids != self.end).sum(dim=1).max()) + 1]
        logits, boxes = predict(self.model, to_pixels(batch.images), ids)
        return detection_loss.set_loss(
            logits,
            boxes,
            torch.from_numpy(batch.boxes),
            torch.from_numpy(batch.learned),
            torch.from_numpy(batch.ignored),
            torch.from_numpy(batch.truth),
        )


def make_optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the blocks, AdamW for the rest, both slower on the text tower."""
    text = {id(p) for name, p in model.named_parameters() if ".text_" in name}

    def groups(parameters: list[nn.Parameter], lr: float) -> list[dict[str, object]]:
        return [
            {"params": [p for p in parameters if id(p) not in text], "lr": lr},
            {"params": [p for p in parameters if id(p) in text], "lr": lr * TEXT_SHARE},
        ]

    matrices, rest = muon.split(model)
    return [
        muon.Muon(groups(matrices, settings.lr), weight_decay=settings.weight_decay),
        torch.optim.AdamW(groups(rest, settings.rest_lr), weight_decay=0.0),
    ]


def train(
    settings: Settings, clip_folder: Path, work: Path, *, max_seconds: float | None = None
) -> tuple[OwlViTForObjectDetection, FitResult]:
    """Draw the corpus if needed and train from CLIP's weights; continues from `work`."""
    data = corpus.build(
        work / "corpus",
        settings.draws,
        detector_data.draw,
        workers=settings.workers,
        fingerprint=code_digest(detector_data.draw, detector_data._texts, targets),
    )
    clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32)
    model = from_clip(clip)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    trainer = Trainer(settings, model, tokenizer, detector_data.Corpus(data, settings.details))
    result = fit(
        modules={"detector": model},
        optimizers=make_optimizers(model, settings),
        step=trainer.step,
        steps=settings.steps,
        work=work,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint={
            "world": world.WORLD_VERSION,
            "clip": weights_digest(clip_folder),
            "code": code_digest(detection_loss, detector_data, from_clip, predict, Trainer),
            **asdict(settings),
        },
        ema=settings.ema,
        log_every=20,
        max_seconds=max_seconds,
        samples_per_step=settings.batch,
    )
    model.load_state_dict(result.ema_state("detector"))
    return model.eval(), result


def save(model: OwlViTForObjectDetection, clip_folder: Path, folder: Path) -> None:
    """Write a plain `from_pretrained` folder, bfloat16."""
    slim = OwlViTForObjectDetection(model.config)
    slim.load_state_dict(model.state_dict())
    slim.to(torch.bfloat16).save_pretrained(folder)
    side = {"height": detector_data.SIZE, "width": detector_data.SIZE}
    image_processor = OwlViTImageProcessorPil(
        size=side, crop_size=side, image_mean=list(MEAN), image_std=list(STD)
    )
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder, model_max_length=LENGTH)
    OwlViTProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    compact(folder)


def main() -> None:
    """Train, save, choose the threshold, measure, describe."""
    nano = corpus.ROOT.parent
    folder, clip_folder = nano / "detector", nano / "clip"
    settings = read("detector", Settings)
    model, result = train(settings, clip_folder, corpus.ROOT / "detector")
    save(model, clip_folder, folder)
    detector = ZeroShotDetector.from_pretrained(folder)
    threshold = pick_threshold(detector)
    detector_grid.write(detector, folder / "grid.png", threshold=threshold)
    write_card(
        folder,
        model_class="OwlViTForObjectDetection",
        data=f"{settings.draws} scenes of the procedural world with boxes of things, people and "
        "faces, queried by category, colour and full description; grown from nano clip.",
        steps=result.step,
        seconds=result.seconds,
        figures=figures(folder, threshold=threshold),
        headline="map50",
        limits=[
            "Knows the procedural world and its words only; real photos are noise to it.",
            "64 x 64 pixels: it looks at larger pictures through this size.",
            "A thing of which less than a third shows is not asked for in training or scoring.",
        ],
        failures=[
            "Two things of one kind that overlap much may be answered with one box.",
            "A query with the right category and a wrong colour often still finds the thing.",
        ],
        recipe="python -m recipe.detector",
        settings={"threshold": threshold},
    )


if __name__ == "__main__":
    main()
