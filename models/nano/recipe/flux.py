"""FLUX at nano size: rectified flow on captions, small pictures first, short captions more often.

As in FLUX, both text encoders know their words when the training starts, and stay as they are: the
nano clip's text tower gives the pooled text, T5 the tokens. Loss: |v - (noise - x_0)|^2 at
x_t = (1 - t) x_0 + t noise, t from a logit-normal (Esser et al. 2024, eq. 13 and 19). The blocks'
matrices go to Muon, the rest to AdamW. Afterwards guidance is distilled into the guidance embedding
(Meng et al. 2023), which is what makes FLUX.1-dev a one-pass model.
"""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from insitu import world
from insitu.digest import weights_digest

from . import corpus, flux_guidance, latents, muon, pictures, t5
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .settings import read
from .t5 import MAX_TOKENS
from .tokenizers import compact
from .vae import trained

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "flux"
CLIP = ROOT / "clip"
PADDED = 0.06
"""Share of batches whose texts are padded to MAX_TOKENS, as a pipeline call does."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps up to `until`: pixels, pictures in a step, and the share of the scenes drawn from.

    Those with the shortest captions: mostly one thing, and fewer tokens to pay for.
    """

    until: int
    size: int
    batch: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `flux` of params.yaml.

    Attributes:
        scenes: distinct scenes seen.
        phases: one after the other.
        heads, head_dim, double_blocks, single_blocks: of the transformer.
        time_mean: of the logit-normal; above 0 for more of the noisy times, when it is decided
            what stands where.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        drop: share of captions replaced by the empty one, for guidance.
        ema: decay of the weights' average.
    """

    scenes: int
    phases: tuple[Phase, ...]
    heads: int
    head_dim: int
    double_blocks: int
    single_blocks: int
    time_mean: float
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    drop: float
    ema: float


def make_transformer(settings: Settings, width: int) -> FluxTransformer2DModel:
    """With random weights; `width` = of both text encoders."""
    torch.manual_seed(0)
    d = settings.head_dim
    rotary = (d // 6 // 2 * 2, (d - d // 6 // 2 * 2) // 2, (d - d // 6 // 2 * 2) // 2)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=settings.double_blocks,
        num_single_layers=settings.single_blocks, attention_head_dim=d,
        num_attention_heads=settings.heads, joint_attention_dim=width, pooled_projection_dim=width,
        guidance_embeds=True, axes_dims_rope=rotary,
    )  # fmt: skip
    # Starting from v = 0 and identity blocks, as DiT does (Peebles & Xie 2023).
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        for name, module in block.named_modules():
            if name in ("norm1.linear", "norm1_context.linear", "norm.linear"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clean latents [N, C, h, w], noise, times [N] in (0, 1), caption numbers and their length."""

    x_0: Tensor
    noise: Tensor
    t: Tensor
    texts: np.ndarray
    length: int

    def velocity(
        self, transformer: nn.Module, tokens: Tensor, pooled: Tensor, guidance: Tensor
    ) -> Tensor:
        """The transformer's packed velocity at x_t."""
        x_t = torch.lerp(self.x_0, self.noise, self.t[:, None, None, None])
        return velocity(transformer, x_t, self.t, tokens, pooled, guidance)


class Trainer:
    """Latents and captions in memory, and the loss of a step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        data = latents.scenes(settings.scenes)
        # Encoded when first needed: the small pictures' phase starts before the large are ready.
        self.latents = functools.cache(
            lambda size: latents.encoded(FOLDER / "vae", data["image"], size)
        )
        clip = CLIPTokenizer.from_pretrained(CLIP)
        self.t5, tokenizer = t5.trained()
        texts, number = np.unique(data["captions"].ravel(), return_inverse=True)
        self.number = number.reshape(-1, latents.CAPTIONS)
        plain = ["", *(text.decode() for text in texts)]
        self.clip_ids = _ids(clip, plain, clip.model_max_length)
        self.t5_ids = _ids(tokenizer, plain, MAX_TOKENS)
        self.lengths = (self.t5_ids != tokenizer.pad_token_id).sum(1)
        self.end = clip.eos_token_id
        self.clip = CLIPTextModel.from_pretrained(CLIP, dtype=torch.float32).eval()
        width = self.clip.config.hidden_size
        self.modules = {"transformer": make_transformer(settings, width)}
        # Scenes in order of their longest caption: neighbours make a batch with little padding.
        self.order = np.argsort(self.lengths[1:][self.number].max(1), kind="stable")

    def step(self, i: int) -> dict[str, Tensor]:
        settings = self.settings
        phase = next(phase for phase in settings.phases if i < phase.until)
        rng = world.rng_for("flux-batch", i)
        batch = self.draw(phase.size, phase.batch, phase.share, rng, drop=settings.drop, seed=i)
        tokens, pooled = self.encode(batch.texts, batch.length)
        # Any guidance gives the same answer until it is distilled.
        guidance = torch.from_numpy(rng.uniform(1, 5, phase.batch).astype(np.float32))
        v = batch.velocity(self.modules["transformer"], tokens, pooled, guidance)
        return {"flow": (v - pack(batch.noise - batch.x_0)).square().mean()}

    def draw(
        self,
        size: int,
        count: int,
        share: float,
        rng: np.random.Generator,
        *,
        drop: float,
        seed: int,
    ) -> "Batch":
        """Scenes of the `share` with the shortest captions; `drop` of the texts are empty."""
        rows = self._similar(count, round(len(self.order) * share), rng)
        texts = self.number[rows, rng.integers(latents.CAPTIONS, size=count)] + 1
        texts = np.where(rng.random(count) < drop, 0, texts)
        generator = torch.Generator().manual_seed(seed)
        x_0 = torch.from_numpy(self.latents(size)[rows].astype(np.float32))
        noise = torch.randn(x_0.shape, generator=generator)
        t = (torch.randn(count, generator=generator) + self.settings.time_mean).sigmoid()
        return Batch(x_0=x_0, noise=noise, t=t, texts=texts, length=self._padded(texts, rng))

    def encode(self, texts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Token features [N, length, D] and pooled features [N, D] of caption numbers."""
        ids = torch.from_numpy(self.clip_ids[texts])
        # Causal attention and pooling at the end token: what comes after it may be cut.
        used = int((ids == self.end).int().argmax(1).max()) + 1
        with torch.no_grad():
            pooled = self.clip(ids[:, :used]).pooler_output
            tokens = self.t5(torch.from_numpy(self.t5_ids[texts, :length])).last_hidden_state
        return tokens, pooled

    def _similar(self, batch: int, among: int, rng: np.random.Generator) -> np.ndarray:
        """Scenes out of a window, an eighth of all, whose captions have similar lengths."""
        width = len(self.order) // 8
        start = rng.integers(among - width + 1)
        return np.sort(rng.choice(self.order[start : start + width], batch, replace=False))

    def _padded(self, texts: np.ndarray, rng: np.random.Generator) -> int:
        """Most batches are cut to their longest caption."""
        if rng.random() < PADDED:
            return MAX_TOKENS
        return int(self.lengths[texts].max())


def velocity(
    transformer: nn.Module, x_t: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor, guidance: Tensor
) -> Tensor:
    """Packed velocity [N, tokens, 64]; position ids span the same square at every size."""
    _, _, h, w = x_t.shape
    scale = pictures.SIZE // 4 / h
    rows, columns = torch.arange(h // 2), torch.arange(w // 2)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    ids = torch.cat([torch.zeros(len(grid), 1), grid * scale + (scale - 1) / 2], 1)
    return transformer(
        hidden_states=pack(x_t), encoder_hidden_states=tokens, pooled_projections=pooled,
        timestep=t, guidance=guidance, img_ids=ids, txt_ids=torch.zeros(tokens.shape[1], 3),
        return_dict=False,
    )[0]  # fmt: skip


def pack(latents_NCHW: Tensor) -> Tensor:
    """2 x 2 latent cells -> one token of 4 C channels, in FluxPipeline's order."""
    n, c, h, w = latents_NCHW.shape
    cells = latents_NCHW.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, h * w // 4, c * 4)


def train(max_seconds: float | None = None) -> tuple[Trainer, FitResult]:
    settings = read("flux", Settings, phases=Phase)
    steps = settings.phases[-1].until
    trainer = Trainer(settings)
    matrices, rest = muon.split(trainer.modules["transformer"])
    optimizers = [
        muon.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(rest, settings.rest_lr, (0.9, 0.99), weight_decay=0.0),
    ]
    result = fit(
        modules=trainer.modules, optimizers=optimizers, step=trainer.step, steps=steps,
        work=corpus.ROOT / "flux", ema=settings.ema, max_seconds=max_seconds,
        schedule=trapezoid(steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings)
        | {
            "world": world.WORLD_VERSION,
            "clip": weights_digest(CLIP),
            "t5": weights_digest(FOLDER / "text_encoder_2"),
        },
        samples_per_step=settings.phases[-1].batch,
    )  # fmt: skip
    trainer.modules["transformer"].load_state_dict(result.ema_state("transformer"))
    trainer.modules["transformer"].eval()
    return trainer, result


def save(trainer: Trainer) -> None:
    """Write everything but the VAE as a plain `FluxPipeline` folder, weights in bfloat16."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=trained(FOLDER / "vae"),
        text_encoder=trainer.clip,
        tokenizer=CLIPTokenizer.from_pretrained(CLIP),
        text_encoder_2=trainer.t5,
        tokenizer_2=t5.trained()[1],
        **trainer.modules,
    )
    pipeline.to(torch.bfloat16).save_pretrained(FOLDER)
    compact(FOLDER)


def _ids(tokenizer, texts: list[str], length: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
    return np.array(encoded.input_ids, np.int64)


def main() -> None:
    trainer, result = train(seconds_allowed())
    if result.finished:
        flux_guidance.distil(trainer, result.step)
    save(trainer)
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes, finished: {result.finished}")


if __name__ == "__main__":
    main()
