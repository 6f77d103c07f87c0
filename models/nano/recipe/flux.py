"""FLUX at nano size: rectified flow on captions, text encoders trained along, small pictures first.

Loss: |v - (noise - x_0)|^2 at x_t = (1 - t) x_0 + t noise, t from a logit-normal (Esser et al.
2024, eq. 13 and 19). The blocks' matrices go to Muon, the rest to AdamW. Afterwards guidance is
distilled into the guidance embedding (Meng et al. 2023), which is what makes FLUX.1-dev a
one-pass model.
"""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from insitu import world

from . import corpus, flux_guidance, latents, muon, pictures
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .settings import read
from .tokenizers import clip_tokenizer, t5_tokenizer
from .vae import trained

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "flux"
MAX_TOKENS = 48
SMALL = pictures.SIZE // 2
PADDED = 0.06
"""Share of batches whose texts are padded to MAX_TOKENS, as a pipeline call does."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `flux` of params.yaml.

    Attributes:
        scenes: distinct scenes seen.
        small_steps: steps on 32 x 32 pictures, before `steps - small_steps` on 64 x 64.
        small_share: share of the scenes, those with the shortest captions, that the small phase
            draws from: mostly one thing, and fewer tokens to pay for.
        batch, small_batch: pictures a step.
        heads, head_dim, double_blocks, single_blocks: of the transformer.
        text_width, t5_layers, clip_layers: of the two text encoders.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
        drop: share of captions replaced by the empty one, for guidance.
        ema: decay of the weights' average.
    """

    scenes: int
    small_steps: int
    small_share: float
    steps: int
    small_batch: int
    batch: int
    heads: int
    head_dim: int
    double_blocks: int
    single_blocks: int
    text_width: int
    t5_layers: int
    clip_layers: int
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    drop: float
    ema: float


def make_modules(settings: Settings, clip_words: int, t5_words: int) -> dict[str, nn.Module]:
    """The transformer and its two text encoders, with random weights."""
    torch.manual_seed(0)
    width, d = settings.text_width, settings.head_dim
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
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=t5_words, d_model=width, d_kv=32, d_ff=2 * width, num_heads=width // 32,
            num_layers=settings.t5_layers, feed_forward_proj="gated-gelu", dropout_rate=0.0,
            is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
        )
    )  # fmt: skip
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip_words, hidden_size=width, intermediate_size=2 * width,
            projection_dim=width, num_hidden_layers=settings.clip_layers,
            num_attention_heads=width // 32, hidden_act="gelu", bos_token_id=clip_words - 2,
            eos_token_id=clip_words - 1, pad_token_id=clip_words - 1,
        )
    )  # fmt: skip
    return {"transformer": transformer, "text_encoder": clip, "text_encoder_2": t5}


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
        words = world.vocabulary()
        clip = clip_tokenizer(words, FOLDER / "tokenizer")
        t5 = t5_tokenizer(words, FOLDER / "tokenizer_2")
        texts, number = np.unique(data["captions"].ravel(), return_inverse=True)
        self.number = number.reshape(-1, latents.CAPTIONS)
        plain = ["", *(text.decode() for text in texts)]
        self.clip_ids = _ids(clip, plain, clip.model_max_length)
        self.t5_ids = _ids(t5, plain, MAX_TOKENS)
        self.lengths = (self.t5_ids != t5.pad_token_id).sum(1)
        self.end = clip.eos_token_id
        self.modules = make_modules(settings, len(clip), len(t5))
        # Scenes in order of their longest caption: neighbours make a batch with little padding.
        self.order = np.argsort(self.lengths[1:][self.number].max(1), kind="stable")

    def step(self, i: int) -> dict[str, Tensor]:
        settings = self.settings
        rng = world.rng_for("flux-batch", i)
        if i < settings.small_steps:
            size, count, share = SMALL, settings.small_batch, settings.small_share
        else:
            size, count, share = pictures.SIZE, settings.batch, 1.0
        batch = self.draw(size, count, share, rng, drop=settings.drop, seed=i)
        tokens, pooled = self.encode(batch.texts, batch.length)
        # Any guidance gives the same answer until it is distilled.
        guidance = torch.from_numpy(rng.uniform(1, 5, count).astype(np.float32))
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
        t = torch.randn(count, generator=generator).sigmoid()
        return Batch(x_0=x_0, noise=noise, t=t, texts=texts, length=self._padded(texts, rng))

    def encode(self, texts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Token features [N, length, D] and pooled features [N, D] of caption numbers."""
        ids = torch.from_numpy(self.clip_ids[texts])
        # Causal attention and pooling at the end token: what comes after it may be cut.
        used = int((ids == self.end).int().argmax(1).max()) + 1
        pooled = self.modules["text_encoder"](ids[:, :used]).pooler_output
        t5 = self.modules["text_encoder_2"](torch.from_numpy(self.t5_ids[texts, :length]))
        return t5.last_hidden_state, pooled

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
    settings = read("flux", Settings)
    trainer = Trainer(settings)
    groups = [muon.split(module) for module in trainer.modules.values()]
    matrices = [p for pair in groups for p in pair[0]]
    rest = [p for pair in groups for p in pair[1]]
    optimizers = [
        muon.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(rest, settings.rest_lr, (0.9, 0.99), weight_decay=0.0),
    ]
    result = fit(
        modules=trainer.modules, optimizers=optimizers, step=trainer.step, steps=settings.steps,
        work=corpus.ROOT / "flux", ema=settings.ema, max_seconds=max_seconds,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings) | {"world": world.WORLD_VERSION},
        samples_per_step=settings.batch,
    )  # fmt: skip
    for name, module in trainer.modules.items():
        module.load_state_dict(result.ema_state(name))
        module.eval()
    return trainer, result


def save(modules: dict[str, nn.Module]) -> None:
    """Write everything but the VAE as a plain `FluxPipeline` folder, weights in bfloat16."""
    from transformers import CLIPTokenizer, T5Tokenizer

    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=trained(FOLDER / "vae"),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        tokenizer_2=T5Tokenizer.from_pretrained(FOLDER / "tokenizer_2"),
        **modules,
    )
    pipeline.to(torch.bfloat16).save_pretrained(FOLDER)


def _ids(tokenizer, texts: list[str], length: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True)
    return np.array(encoded.input_ids, np.int64)


def main() -> None:
    trainer, result = train(seconds_allowed())
    if result.finished:
        flux_guidance.distil(trainer, result.step)
    save(trainer.modules)
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes, finished: {result.finished}")


if __name__ == "__main__":
    main()
