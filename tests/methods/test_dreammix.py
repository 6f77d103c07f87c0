"""Proves DreamMix's tuning core: the loss is the paper's formula, the adapter is plain PEFT that
diffusers loads, and the base is left as it was.

Needs the nano inpainting checkpoint.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLInpaintPipeline
from safetensors.torch import save_file

from insitu import world
from insitu.backbones.unet import InpaintBackbone
from insitu.backbones.unet.families import joined
from insitu.backbones.unet.sampling import Sampling, guided
from insitu.errors import UserError
from insitu.methods import Example, Placement, Request, Told, find
from insitu.methods.dreammix import DreamMix, Settings
from insitu.methods.dreammix.data import REGULAR, SUBJECT
from insitu.params import Checkpoint

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SETTINGS = Settings(
    rank=4, targets=("to_k", "to_v", "to_out.0"), inside=1.5, outside=0.7, beta=0.4,
    local=1.0, enlarge=0.0, background="original", substitute="tokens",
    scheduler="own", steps=3, guidance_scale=3.0, rescale=0.0, context=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone() -> InpaintBackbone:
    return InpaintBackbone.load(Checkpoint(path=str(NANO)), device=torch.device("cpu"))


@pytest.fixture
def method(backbone: InpaintBackbone):
    method = find("dreammix", asdict(SETTINGS))
    assert isinstance(method, DreamMix)
    method.attach(backbone)
    yield method
    method.detach(backbone)


def make_examples(*pools: str) -> list[Example]:
    scenes = [world.sample_scene(world.rng_for("dreammix", i)) for i in range(len(pools))]
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 16:52] = 255
    return [
        Example(
            id=f"e{i}", image=world.render(scene).image, mask=mask, prompt="a sks mug", pool=pool
        )
        for i, (scene, pool) in enumerate(zip(scenes, pools, strict=True))
    ]


def told_of(method: DreamMix, backbone: InpaintBackbone, examples: list[Example]) -> Told:
    text = backbone.encode_text(tuple(example.prompt for example in examples))
    with_text = {"text.context": text.context, "text.pooled": text.pooled}
    return method.condition(backbone, examples) | with_text


def noise_and_times(count: int, backbone: InpaintBackbone) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, *backbone.latent_shape)
    return torch.randn(shape, generator=generator), torch.rand(count, generator=generator)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_is_the_papers(
    backbone: InpaintBackbone, method: DreamMix, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L_RE = tau1 m |e - eps|^2 + tau2 (1 - m) |e - eps|^2; L = L_RE(subject) + beta L_RE(regular),
    written again pixel by pixel around the same prediction, of the noise or of the velocity.
    """
    schedule = DDPMScheduler.from_config(backbone.schedule.config, prediction_type=kind)
    monkeypatch.setattr(backbone, "schedule", schedule)
    examples = make_examples(SUBJECT, REGULAR, SUBJECT)
    told = told_of(method, backbone, examples)
    noise, t = noise_and_times(3, backbone)
    terms = method.loss(backbone, told, noise, t)

    timestep = (t * 1000).long()
    alpha = backbone.pipeline.scheduler.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
    z_t = alpha.sqrt() * told["z_0"] + (1 - alpha).sqrt() * noise
    text = backbone.encode_text(("a sks mug",) * 3)
    e = backbone.predict(z_t, timestep, told["mask"], told["holed"], text)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * told["z_0"]
    eps = noise if kind == "epsilon" else velocity
    stride = 64 // backbone.latent_shape[1]
    masks = np.stack([example.mask for example in examples])
    m = torch.from_numpy(masks[:, None, ::stride, ::stride] // 255).float()
    each = torch.stack(
        [
            (1.5 * m[i] * (e[i] - eps[i]) ** 2 + 0.7 * (1 - m[i]) * (e[i] - eps[i]) ** 2).mean()
            for i in range(3)
        ]
    )
    subject, regular = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.4, 0.0])
    torch.testing.assert_close(terms["subject"], subject * each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["regular"], regular * each, rtol=1e-4, atol=1e-5)


def test_only_the_adapter_learns_and_all_of_it(backbone: InpaintBackbone, method: DreamMix) -> None:
    told = told_of(method, backbone, make_examples(SUBJECT, SUBJECT))
    learning = [p for p in backbone.unet.parameters() if p.requires_grad]
    layers = [n for n, _ in backbone.unet.named_modules() if n.endswith(SETTINGS.targets)]
    assert len(learning) == 2 * len(layers) > 0
    terms = method.loss(backbone, told, *noise_and_times(2, backbone))
    torch.stack(list(terms.values())).mean().backward()
    assert all(p.grad is not None for p in learning)


def filled(method: DreamMix, backbone: InpaintBackbone) -> np.ndarray:
    photo = world.render(world.sample_scene(world.rng_for("dreammix", "photo")), 128).image
    request = Request(
        image=photo,
        placements=(Placement(box_xyxy01=(0.3, 0.3, 0.7, 0.9)),),
        prompt="a red mug",
        seed=3,
    )
    return method.paint(backbone, [request])[0]


def test_a_fresh_adapter_changes_nothing_and_detaching_leaves_no_trace(
    backbone: InpaintBackbone,
) -> None:
    method = DreamMix(SETTINGS)
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    plain = filled(method, backbone)
    method.attach(backbone)
    assert np.array_equal(filled(method, backbone), plain)
    method.detach(backbone)
    after = backbone.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def random_state(method: DreamMix, backbone: InpaintBackbone) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in method.state(backbone).items()
    }


def denoised(backbone: InpaintBackbone, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """As diffusers' pipeline for 9 channels does it: without blending."""
    sampling = Sampling(scheduler="own", steps=3, guidance_scale=3.0)
    cells, holed = backbone.latent_mask(mask[None]), backbone.encode_holed(photo[None], mask[None])
    both = joined([backbone.encode_text(("",)), backbone.encode_text(("a red mug",))])

    def guess(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        twice = [torch.cat([x, x]) for x in (z, t.expand(1), cells, holed)]
        untold, told = backbone.predict(twice[0], twice[1], twice[2], twice[3], both).chunk(2)
        return guided(told, untold, sampling)

    steps = backbone.denoising(sampling)
    z, _ = steps.run(steps.start(backbone.noise([5], 64, 64)), guess)
    return backbone.pictures(z)[0]


@pytest.mark.parametrize("targets", [SETTINGS.targets, ("to_q", "ff.net.2", "conv1", "conv2")])
def test_plain_diffusers_loads_the_adapter_and_paints_the_same(
    backbone: InpaintBackbone, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    method = DreamMix(replace(SETTINGS, targets=targets))
    method.attach(backbone)
    state = random_state(method, backbone)
    method.detach(backbone)
    photo = world.render(world.sample_scene(world.rng_for("dreammix", "photo"))).image
    mask = make_examples(SUBJECT)[0].mask
    untuned = denoised(backbone, photo, mask)
    method.load(backbone, state)
    ours = denoised(backbone, photo, mask)
    method.detach(backbone)

    save_file(state, tmp_path / "adapter.safetensors")
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(NANO, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    theirs = pipeline(
        "a red mug", negative_prompt="", image=photo.astype(np.float32)[None] / 255,
        mask_image=torch.from_numpy((mask > 0).astype(np.float32))[None, None], height=64, width=64,
        masked_image_latents=backbone.encode_holed(photo[None], mask[None]),
        strength=1.0, num_inference_steps=3, guidance_scale=3.0, output_type="np",
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1
    assert np.abs(ours.astype(int) - untuned).max() > 8


def test_an_adapter_that_does_not_fit_is_refused(backbone: InpaintBackbone) -> None:
    method = DreamMix(SETTINGS)
    method.attach(backbone)
    state = method.state(backbone)
    method.detach(backbone)
    name = next(iter(state))
    renamed = {("x." + key if key == name else key): value for key, value in state.items()}
    with pytest.raises(UserError, match="1 of its layers are missing and 1 are unknown"):
        method.load(backbone, renamed)
    idle = DreamMix(replace(SETTINGS, targets=("to_k", "to_nothing")))
    with pytest.raises(UserError, match="'to_nothing'"):
        idle.attach(backbone)
    with pytest.raises(UserError, match="There is no such method"):
        find("dreammixx", {})
    # A refusal leaves the base as it was.
    DreamMix(SETTINGS).attach(backbone)
    DreamMix(SETTINGS).detach(backbone)
