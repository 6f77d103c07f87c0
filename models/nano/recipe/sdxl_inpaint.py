"""SDXL inpainting at nano size: fill a mask from text, noise prediction, 9-channel U-Net.

Input [z_t ; mask ; Enc(image x (1 - mask))] as in Stable Diffusion's inpainting models (Rombach et
al. 2022); the text speaks of what the mask hides (a regional caption), at times of the picture.
Small pictures come first, for a quarter of the price; SDXL's size conditioning tells them apart
(Podell et al. 2023, section 2.2). Matrices and kernels go to Muon, the rest to AdamW.
"""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from insitu import world

from . import corpus, latents, muon, pictures
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .settings import read
from .tokenizers import clip_tokenizer
from .vae import trained

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "sdxl-inpaint"
MAX_TOKENS = 48
SMALL = pictures.SIZE // 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `sdxl-inpaint` of params.yaml.

    Attributes:
        draws: distinct (scene, mask, text) samples.
        small_steps, small_batch: steps on 32 x 32 pictures, which come first, and samples in each.
        steps, batch: optimizer steps in all, and samples in each that is not small.
        channels, heads: of the U-Net's resolutions, finest first.
        text_widths, text_layers: of the two text encoders.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        drop: share of texts replaced by the empty one, for guidance.
        ema: decay of the weights' average.
    """

    draws: int
    small_steps: int
    small_batch: int
    steps: int
    batch: int
    channels: tuple[int, int, int]
    heads: tuple[int, int, int]
    text_widths: tuple[int, int]
    text_layers: int
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    drop: float
    ema: float


def hole(index: int) -> dict[str, np.ndarray]:
    """A scene, a mask (1 = fill) over one of its things, and texts for what is under it."""
    rng = world.rng_for("inpaint", index)
    scene = world.sample_scene(rng)
    rendered = world.render(scene, pictures.SIZE)
    seen = [i for i, thing in enumerate(rendered.things) if thing.visible > 0.4]
    thing = rendered.things[world.pick(rng, seen or [0])]
    colours = scene.style != "line art"
    level = world.pick(rng, world.DETAILS)
    text = world.describe(thing.thing, detail=level, colours=colours)
    if rng.random() < 0.2:
        text = world.caption(scene, rng=rng)
    return {
        "image": rendered.image,
        "mask": box_mask(thing.box_xyxy01, float(rng.uniform(0.0, 0.3)), pictures.SIZE),
        "text": np.array(text, latents.TEXT),
    }


def box_mask(box_xyxy01: tuple[float, float, float, float], grow: float, size: int) -> np.ndarray:
    """uint8 [size, size], 1 inside the box with each side `grow` longer, clipped."""
    x0, y0, x1, y1 = box_xyxy01
    dx, dy = (x1 - x0) * grow / 2, (y1 - y0) * grow / 2
    left, top = int(max(0, (x0 - dx) * size)), int(max(0, (y0 - dy) * size))
    right, bottom = int(np.ceil((x1 + dx) * size)), int(np.ceil((y1 + dy) * size))
    mask = np.zeros((size, size), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def make_modules(settings: Settings, words: int) -> dict[str, nn.Module]:
    """The U-Net and its two text encoders, with random weights."""
    torch.manual_seed(0)
    one, two = settings.text_widths

    def text(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=words, hidden_size=width, intermediate_size=2 * width, projection_dim=width,
            num_hidden_layers=settings.text_layers, num_attention_heads=width // 32,
            max_position_embeddings=MAX_TOKENS, hidden_act="gelu", bos_token_id=words - 2,
            eos_token_id=words - 1, pad_token_id=words - 1,
        )  # fmt: skip

    unet = UNet2DConditionModel(
        sample_size=pictures.SIZE // 2, in_channels=9, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=tuple(settings.channels), layers_per_block=1, norm_num_groups=8,
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=tuple(settings.heads),
        cross_attention_dim=one + two, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=6 * 16 + two,
    )  # fmt: skip
    return {
        "unet": unet.to(memory_format=torch.channels_last),
        "text_encoder": CLIPTextModel(text(one)),
        "text_encoder_2": CLIPTextModelWithProjection(text(two)),
    }


def make_scheduler() -> EulerDiscreteScheduler:
    """SDXL's own schedule."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        timestep_spacing="leading",
    )  # fmt: skip


class Trainer:
    """Latents, masks and texts in memory, and the loss of a step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        data = corpus.build("inpaint", settings.draws, hole)
        images, masks = data["image"], data["mask"]
        self.masks = masks
        vae, holed = FOLDER / "vae", _Holed(images, masks)
        # Encoded when first needed: the small pictures' phase starts before the large are ready.
        self.clean = functools.cache(lambda size: latents.encoded(vae, images, size))
        self.holed = functools.cache(lambda size: latents.encoded(vae, holed, size, name="holed"))
        tokenizer = clip_tokenizer(world.vocabulary(), FOLDER / "tokenizer", MAX_TOKENS)
        tokenizer.save_pretrained(FOLDER / "tokenizer_2")
        texts, self.number = np.unique(data["text"], return_inverse=True)
        plain = ["", *(text.decode() for text in texts)]
        encoded = tokenizer(plain, padding="max_length", max_length=MAX_TOKENS, truncation=True)
        self.ids = torch.tensor(encoded.input_ids)
        self.alphas = make_scheduler().alphas_cumprod
        self.modules = make_modules(settings, len(tokenizer))

    def step(self, i: int) -> dict[str, Tensor]:
        settings = self.settings
        small = i < settings.small_steps
        size, count = (SMALL, settings.small_batch) if small else (pictures.SIZE, settings.batch)
        rng = world.rng_for("inpaint-batch", i)
        rows = np.sort(rng.choice(len(self.number), count, replace=False))
        texts = np.where(rng.random(count) < settings.drop, 0, self.number[rows] + 1)
        noise_rng = torch.Generator().manual_seed(i)
        z_0 = torch.from_numpy(self.clean(size)[rows].astype(np.float32))
        holed = torch.from_numpy(self.holed(size)[rows].astype(np.float32))
        stride = pictures.SIZE // z_0.shape[-1]
        mask = torch.from_numpy(self.masks[rows][:, None, ::stride, ::stride].astype(np.float32))
        noise = torch.randn(z_0.shape, generator=noise_rng)
        t = torch.randint(len(self.alphas), (count,), generator=noise_rng)
        alpha = self.alphas[t][:, None, None, None]
        z_t = alpha.sqrt() * z_0 + (1 - alpha).sqrt() * noise
        context, pooled = encode(self.modules, self.ids[texts])
        time_ids = torch.tensor([size, size, 0, 0, size, size]).expand(count, -1)
        x = torch.cat([z_t, mask, holed], 1).to(memory_format=torch.channels_last)
        predicted = self.modules["unet"](
            x, t, encoder_hidden_states=context, return_dict=False,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        )[0]  # fmt: skip
        return {"noise": (predicted - noise).square().mean()}


class _Holed:
    """Pictures with mid-gray under the mask, made on demand; what the pipeline encodes."""

    def __init__(self, images: np.ndarray, masks: np.ndarray) -> None:
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.where(self.masks[rows][..., None] == 1, np.uint8(128), self.images[rows])


def encode(modules: dict[str, nn.Module], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Context [N, tokens, D1 + D2] and pooled [N, D2], from the last but one layer as SDXL does."""
    one = modules["text_encoder"](ids, output_hidden_states=True)
    two = modules["text_encoder_2"](ids, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def train(max_seconds: float | None = None) -> tuple[Trainer, FitResult]:
    settings = read("sdxl-inpaint", Settings)
    trainer = Trainer(settings)
    # SDXL reads the encoders before their last layer; that layer and the first encoder's pooled
    # output get no gradient, which both optimizers skip.
    groups = [muon.split(module, kernels=True) for module in trainer.modules.values()]
    optimizers = [
        muon.Muon([p for pair in groups for p in pair[0]], lr=settings.lr,
                  weight_decay=settings.weight_decay),
        torch.optim.AdamW([p for pair in groups for p in pair[1]], settings.rest_lr, (0.9, 0.99),
                          weight_decay=0.0),
    ]  # fmt: skip
    result = fit(
        modules=trainer.modules, optimizers=optimizers, step=trainer.step, steps=settings.steps,
        work=corpus.ROOT / "sdxl-inpaint", ema=settings.ema, max_seconds=max_seconds,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings) | {"world": world.WORLD_VERSION},
        samples_per_step=settings.batch,
    )  # fmt: skip
    for name, module in trainer.modules.items():
        module.load_state_dict(result.ema_state(name))
        module.eval()
    return trainer, result


def save(modules: dict[str, nn.Module]) -> None:
    """Write everything but the VAE as a plain pipeline folder, weights in bfloat16."""
    pipeline = StableDiffusionXLInpaintPipeline(
        scheduler=make_scheduler(),
        vae=trained(FOLDER / "vae"),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer_2"),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
        **modules,
    )
    pipeline.to(torch.bfloat16).save_pretrained(FOLDER)


def main() -> None:
    trainer, result = train(seconds_allowed())
    save(trainer.modules)
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes, finished: {result.finished}")


if __name__ == "__main__":
    main()
