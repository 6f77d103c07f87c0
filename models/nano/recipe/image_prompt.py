"""A picture as a prompt for nano FLUX: IP-Adapter's projection and layers, learned from styles.

Ye et al. 2023, section 3.2: the base is frozen, and a few tokens projected from CLIP's embedding
are attended to beside the text. A training picture comes with another one of its style, and with a
caption that says nothing of the style: only the picture tells. Written in the public format.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from insitu import world
from insitu.backbones import image_prompt
from insitu.backbones.branches import Branch, Inputs, Layout, everything
from insitu.backbones.flux import FluxBackbone, Text, pack, positions, unpack
from insitu.backbones.image_prompt import NAME, ImageAttention, ImagePrompt
from insitu.evaluation.checkpoints import Figure, proportion
from insitu.params import FluxCheckpoint
from insitu.perception.clip import ClipScorer

from . import corpus, pictures
from .card import write_card
from .grid import framed, labelled, write_grid
from .loop import fit, trapezoid
from .settings import read

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "image-prompt"
STYLES = tuple(world.STYLES)
WORDS, GUIDANCE, TILE = 48, 3.5, 128
Pictures = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `image-prompt` of params.yaml.

    Attributes:
        tokens: that a picture becomes.
        steps, batch: optimizer steps and pictures in each.
        lr: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        ema: decay of the weights' average.
        cases: held-out pictures of each style behind a figure.
    """

    tokens: int
    steps: int
    batch: int
    lr: float
    warmup: int
    cooldown: int
    ema: float
    cases: int


def base() -> FluxBackbone:
    checkpoint = FluxCheckpoint(
        path=str(ROOT / "flux"), size=pictures.SIZE, max_sequence_length=WORDS
    )
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


def eyes() -> Path:
    """The vision half of the nano clip as a folder of its own; its weights are a link to clip's."""
    folder, clip = FOLDER / image_prompt.ENCODER, CLIPConfig.from_pretrained(ROOT / "clip")
    folder.mkdir(parents=True, exist_ok=True)
    # A whole CLIP says the size of its embeddings itself, and its halves' configurations do not.
    clip.vision_config.projection_dim = clip.projection_dim
    clip.vision_config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    if not weights.is_symlink():
        weights.symlink_to("../../clip/model.safetensors")
    return folder


def fresh(backbone: FluxBackbone, tokens: int) -> ImagePrompt:
    """It adds nothing yet: values begin at zero."""
    torch.manual_seed(0)
    encoder = CLIPVisionModelWithProjection.from_pretrained(eyes(), dtype=torch.float32)
    encoder.requires_grad_(False).eval()
    features = backbone.transformer.config.joint_attention_dim
    layers = [
        ImageAttention(features, backbone.width, 1.0)
        for _ in backbone.transformer.transformer_blocks
    ]
    for layer in layers:
        nn.init.zeros_(layer.to_v_ip.weight)
        nn.init.zeros_(layer.to_v_ip.bias)
    projection = nn.Linear(encoder.config.projection_dim, tokens * features)
    return ImagePrompt(encoder, projection, nn.LayerNorm(features), layers)


def pair(name: str, index: int) -> tuple[np.ndarray, str, np.ndarray, str]:
    """A picture, its caption without a style, another picture of the same style, and the style."""
    rng = world.rng_for(name, index)
    style = world.pick(rng, STYLES)
    one, other = (world.sample_scene(rng, style=style) for _ in range(2))
    told = world.caption(replace(one, style="photo"), rng=rng)
    image, like = (world.render(scene, pictures.SIZE).image for scene in (one, other))
    return image, told, like, style


def tokens(prompt: ImagePrompt, images: Pictures) -> Tensor:
    """What `ImagePrompt.tokens` gives, with a gradient for what learns."""
    given = prompt._processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        seen = prompt.encoder(given["pixel_values"]).image_embeds
    width = prompt.norm.normalized_shape
    found: Tensor = prompt.norm(prompt.projection(seen).unflatten(-1, (-1, *width)))
    return found


def velocity(
    backbone: FluxBackbone, text: Text, seen: Tensor | None, x_t: Tensor, t: Tensor, guidance: float
) -> Tensor:
    height, width = x_t.shape[-2:]
    branches = [
        Branch(name="text", ids=torch.zeros(WORDS, 3), space="text"),
        Branch(name="image", ids=positions(height, width)),
    ]
    inputs = Inputs(
        tokens={"text": text.tokens, "image": pack(x_t)}, pooled=text.pooled, t=t,
        guidance=torch.full_like(t, guidance), beside={} if seen is None else {NAME: seen},
    )  # fmt: skip
    layout = Layout(branches, everything(("text", "image")))
    return unpack(backbone.transformer(layout=layout, inputs=inputs), height, width)


def train() -> None:
    settings, backbone = read("image-prompt", Settings), base()
    prompt = fresh(backbone, settings.tokens)
    prompt.put(backbone.transformer)
    learned = nn.ModuleList([prompt.projection, prompt.norm, *prompt.layers])
    size = settings.batch

    def step(i: int) -> dict[str, Tensor]:
        drawn = [pair("image-prompt", i * size + k) for k in range(size)]
        images, told, like, _ = zip(*drawn, strict=True)
        z_0, text = backbone.encode(np.stack(images)), backbone._encode_text(tuple(told))
        t = torch.rand(size)
        noise = torch.randn_like(z_0)
        x_t = torch.lerp(z_0, noise, t[:, None, None, None])
        v = velocity(backbone, text, tokens(prompt, like), x_t, t, 1.0)
        return {"flow": (v - (noise - z_0)).square().mean()}

    result = fit(
        modules={"learned": learned}, step=step, steps=settings.steps, ema=settings.ema,
        optimizers=[torch.optim.AdamW(learned.parameters(), settings.lr, weight_decay=0.01)],
        work=corpus.ROOT / "image-prompt", samples_per_step=size,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings) | {"world": world.WORLD_VERSION},
    )  # fmt: skip
    learned.load_state_dict(result.ema_state("learned"))
    weights = {name: value.to(torch.bfloat16) for name, value in published(prompt).items()}
    save_file(weights, FOLDER / image_prompt.WEIGHTS)
    publish(settings, result.step, result.seconds)


def published(prompt: ImagePrompt) -> dict[str, Tensor]:
    """Weights by the public names."""
    found = {}
    parts: dict[str, nn.Module] = {"proj": prompt.projection, "norm": prompt.norm}
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            found[f"ip_adapter_proj_model.{name}.{key}"] = value.contiguous()
    for k, layer in enumerate(prompt.layers):
        for kind, ours in (("k", "to_k_ip"), ("v", "to_v_ip")):
            stem = f"double_blocks.{k}.processor.ip_adapter_double_stream_{kind}_proj"
            for key, value in getattr(layer, ours).state_dict().items():
                found[f"{stem}.{key}"] = value.contiguous()
    return found


def publish(settings: Settings, steps: int, seconds: float) -> None:
    """Card and grid, of the files as they were written."""
    backbone = base()
    found, shown = measure(backbone, settings.cases)
    write_grid(FOLDER / "grid.png", shown)
    write_card(
        FOLDER,
        model_class="IP-Adapter for FluxPipeline",
        data="Pairs of scenes of the procedural world in one style, with captions that do not tell"
        " it; the vision half of the nano clip sees them.",
        steps=steps,
        seconds=seconds,
        figures=found,
        headline="style",
        limits=[
            "Knows the four styles of the procedural world.",
            "image_encoder is a link to the nano clip.",
        ],
        failures=["It repaints the whole picture, and colours of things suffer."],
        recipe="dvc repro image-prompt",
        settings={"tokens": settings.tokens, "guidance_scale": GUIDANCE},
    )


@torch.no_grad()
def measure(backbone: FluxBackbone, cases: int) -> tuple[dict[str, Figure], list[list[np.ndarray]]]:
    """Is a picture of the style that was shown? As the nano clip reads it, with and without."""
    clip = ClipScorer.from_pretrained(ROOT / "clip")
    prompt = ImagePrompt.load(FOLDER, backbone.transformer)
    prompt.put(backbone.transformer)
    drawn = [pair("held-out image-prompt", k) for k in range(cases)]
    images, told, like, styles = (list(x) for x in zip(*drawn, strict=True))
    with_it = painted(backbone, told, prompt.tokens(like))
    without = painted(backbone, told, None)
    figures = {
        "style": proportion(read_styles(clip, with_it, told, styles)),
        "style without the picture": proportion(read_styles(clip, without, told, styles)),
        "style of true pictures": proportion(read_styles(clip, images, told, styles)),
    }
    rows = []
    for style in STYLES:
        some = [k for k, name in enumerate(styles) if name == style][:3]
        rows.append(
            [
                labelled(framed(picture, TILE), words)
                for k in some
                for picture, words in (
                    (like[k], style),
                    (without[k], "without"),
                    (with_it[k], "with"),
                )
            ]
        )
    return figures, rows


def painted(backbone: FluxBackbone, told: Sequence[str], seen: Tensor | None) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for start in range(0, len(told), 16):
        some = slice(start, start + 16)
        text = backbone.encode_text(tuple(told[some]))
        own = None if seen is None else seen[some]
        noise = backbone.noise(range(start, start + len(told[some])), pictures.SIZE, pictures.SIZE)

        def at(x: Tensor, t: Tensor, text: Text = text, own: Tensor | None = own) -> Tensor:
            return velocity(backbone, text, own, x, t, GUIDANCE)

        found += backbone.pictures(backbone.sample(noise, at, steps=25))
    return found


def read_styles(
    clip: ClipScorer, images: Pictures, told: Sequence[str], styles: Sequence[str]
) -> list[bool]:
    """Whether the caption in a picture's own style fits it best of the four."""
    right = []
    for image, words, style in zip(clip.embed_images(images), told, styles, strict=True):
        texts = clip.embed_texts([world.STYLES[name].format(scene=words) for name in STYLES])
        right.append(STYLES[int((texts @ image).argmax())] == style)
    return right


if __name__ == "__main__":
    train()
