"""SDXL inpainting at nano size: fill a mask from text, velocity prediction, 9-channel U-Net.

Input [z_t ; mask ; Enc(image x (1 - mask))] as in Stable Diffusion's inpainting models (Rombach et
al. 2022); the text speaks of what the mask hides (a regional caption), at times of the picture.
Small pictures come first, for a quarter of the price; SDXL's size conditioning tells them apart
(Podell et al. 2023, section 2.2). The velocity is predicted (Salimans & Ho 2022, appendix D): at
high noise, where it is decided what a thing is, predicted noise says next to nothing about it. Many
holes are seen from near, as methods that work on a square around the box ask for them. The second
text encoder, the pooled one, is the nano clip's tower, as it is; the first learns along. Matrices
and kernels go to Muon, the rest to AdamW.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from insitu import world
from insitu.digest import weights_digest

from . import corpus, muon, pictures
from .inpaint_data import Holes
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .settings import read
from .tokenizers import clip_tokenizer, compact
from .vae import trained

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "sdxl-inpaint"
CLIP = ROOT / "clip"
MAX_TOKENS = 48
OUTSIDE = 0.3
"""Weight of the loss outside of the mask, where the answer is given."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps up to `until`: pixels, samples in a step, the share of them that is seen from near."""

    until: int
    size: int
    batch: int
    near: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `sdxl-inpaint` of params.yaml.

    Attributes:
        draws, near_draws: distinct (picture, mask, text) samples, and those seen from near.
        phases: one after the other.
        channels, heads, depths: of the U-Net's resolutions, finest first; the finest has no
            attention, so its heads and depth (transformer layers a block) do not count.
        text_width, text_layers: of the first text encoder.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        drop: share of texts replaced by the empty one, for guidance.
        ema: decay of the weights' average.
    """

    draws: int
    near_draws: int
    phases: tuple[Phase, ...]
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    text_width: int
    text_layers: int
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    drop: float
    ema: float


def make_modules(
    settings: Settings, side: int, words: int, clip: CLIPTextConfig
) -> dict[str, nn.Module]:
    """The U-Net and its first text encoder, with random weights.

    `side` = of the latents, `words` = the first encoder's vocabulary, `clip` = the second encoder.
    """
    torch.manual_seed(0)
    width = settings.text_width
    text = CLIPTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=2 * width, projection_dim=width,
        num_hidden_layers=settings.text_layers, num_attention_heads=width // 32,
        max_position_embeddings=MAX_TOKENS, hidden_act="gelu", bos_token_id=words - 2,
        eos_token_id=words - 1, pad_token_id=words - 1,
    )  # fmt: skip
    deeper = len(settings.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=side, in_channels=9, out_channels=4,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        block_out_channels=tuple(settings.channels), layers_per_block=1, norm_num_groups=8,
        transformer_layers_per_block=tuple(settings.depths),
        attention_head_dim=tuple(settings.heads), use_linear_projection=True,
        cross_attention_dim=width + clip.hidden_size,
        addition_embed_type="text_time", addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=6 * 16 + clip.projection_dim,
    )  # fmt: skip
    return {
        "unet": unet.to(memory_format=torch.channels_last),
        "text_encoder": CLIPTextModel(text),
    }


def make_scheduler() -> EulerDiscreteScheduler:
    """SDXL's own schedule, for a network that predicts the velocity."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        timestep_spacing="leading", prediction_type="v_prediction",
    )  # fmt: skip


class Trainer:
    """Holes in memory, and the loss of a step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.far = Holes(settings.draws, FOLDER / "vae", near=False)
        self.near = Holes(settings.near_draws, FOLDER / "vae", near=True)
        own = clip_tokenizer(world.vocabulary(), FOLDER / "tokenizer", MAX_TOKENS)
        texts = np.unique(np.concatenate([self.far.texts, self.near.texts]))
        plain = ["", *(text.decode() for text in texts)]
        self.ids, self.clip_ids = (
            torch.tensor(
                tokenizer(
                    plain, padding="max_length", max_length=MAX_TOKENS, truncation=True
                ).input_ids
            )
            for tokenizer in (own, second_tokenizer())
        )
        self.far.texts, self.near.texts = (
            np.searchsorted(texts, holes.texts) + 1 for holes in (self.far, self.near)
        )
        self.alphas = make_scheduler().alphas_cumprod
        self.clip = second_encoder()
        vae = AutoencoderKL.load_config(FOLDER / "vae")
        side = pictures.SIZE >> (len(vae["block_out_channels"]) - 1)
        self.modules = make_modules(settings, side, len(own), self.clip.config)

    def step(self, i: int) -> dict[str, Tensor]:
        """|v - (a noise - s z_0)|^2 at z_t = a z_0 + s noise: the mask's mean, and a share of the
        rest's.
        """
        phase = next(phase for phase in self.settings.phases if i < phase.until)
        rng = world.rng_for("inpaint-batch", i)
        near = round(phase.batch * phase.near)
        drawn = [
            holes.draw(rng, count, phase.size)
            for holes, count in ((self.far, phase.batch - near), (self.near, near))
            if count
        ]
        *pictured, numbers = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        texts = np.where(rng.random(phase.batch) < self.settings.drop, 0, numbers)
        z_0, holed, mask = (torch.from_numpy(part.astype(np.float32)) for part in pictured)
        noise_rng = torch.Generator().manual_seed(i)
        noise = torch.randn(z_0.shape, generator=noise_rng)
        t = torch.randint(len(self.alphas), (phase.batch,), generator=noise_rng)
        alpha = self.alphas[t][:, None, None, None]
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        z_t = a * z_0 + s * noise
        context, pooled = self.encode(texts)
        size = phase.size
        time_ids = torch.tensor([size, size, 0, 0, size, size]).expand(phase.batch, -1)
        x = torch.cat([z_t, mask, holed], 1).to(memory_format=torch.channels_last)
        predicted = self.modules["unet"](
            x, t, encoder_hidden_states=context, return_dict=False,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        )[0]  # fmt: skip
        error = (predicted - (a * noise - s * z_0)).square().mean(1, keepdim=True)
        inside, outside = _mean(error, mask), _mean(error, 1 - mask)
        return {"inside": inside, "outside": outside, "loss": inside + OUTSIDE * outside}

    def encode(self, texts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Context [N, tokens, D1 + D2] and pooled [N, D2] of text numbers, as SDXL has them.

        The context is from each encoder's last layer but one.
        """
        one = self.modules["text_encoder"](self.ids[texts], output_hidden_states=True)
        with torch.no_grad():
            two = self.clip(self.clip_ids[texts], output_hidden_states=True)
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    """The batch's mean of each sample's weighted mean; [N, 1, h, w] -> []."""
    total = weight.sum((1, 2, 3)).clamp(min=1)
    return ((error * weight).sum((1, 2, 3)) / total).mean()


def second_encoder() -> CLIPTextModelWithProjection:
    """The nano clip's text tower and projection."""
    whole = CLIPConfig.from_pretrained(CLIP)
    config = whole.text_config
    config.projection_dim = whole.projection_dim  # the tower's own entry is a default, unused
    return CLIPTextModelWithProjection.from_pretrained(
        CLIP, config=config, dtype=torch.float32
    ).eval()


def second_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(CLIP, model_max_length=MAX_TOKENS)


def train(max_seconds: float | None = None) -> tuple[Trainer, FitResult]:
    settings = read("sdxl-inpaint", Settings, phases=Phase)
    steps = settings.phases[-1].until
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
        modules=trainer.modules, optimizers=optimizers, step=trainer.step, steps=steps,
        work=corpus.ROOT / "sdxl-inpaint", ema=settings.ema, max_seconds=max_seconds,
        schedule=trapezoid(steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings)
        | {"world": world.WORLD_VERSION, "clip": weights_digest(CLIP)},
        samples_per_step=settings.phases[-1].batch,
    )  # fmt: skip
    for name, module in trainer.modules.items():
        module.load_state_dict(result.ema_state(name))
        module.eval()
    return trainer, result


def save(trainer: Trainer) -> None:
    """Write everything but the VAE as a plain pipeline folder, weights in bfloat16."""
    pipeline = StableDiffusionXLInpaintPipeline(
        scheduler=make_scheduler(),
        vae=trained(FOLDER / "vae"),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        tokenizer_2=second_tokenizer(),
        text_encoder_2=trainer.clip,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
        **trainer.modules,
    )
    pipeline.to(torch.bfloat16).save_pretrained(FOLDER)
    compact(FOLDER)


def main() -> None:
    trainer, result = train(seconds_allowed())
    save(trainer)
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes, finished: {result.finished}")


if __name__ == "__main__":
    main()
