"""Proves that encoded examples are what the encoders say, that a folder encoded from anything else
is refused with what changed, and that what cannot be learned from is refused before a step.

Needs no trained checkpoint: tiny random ones of the real classes.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch

from insitu.backbones.parts import encoder_digests
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods import Example, Method, find
from insitu.params import Checkpoint
from insitu.training import encoding
from insitu.training.encoding import Encoded, encode, facts_of

SETTINGS = {
    "rank": 2, "targets": ["to_k"], "inside": 1.5, "outside": 0.7, "beta": 0.4, "steps": 1,
    "local": 1.0, "enlarge": 0.0, "background": "original", "substitute": "tokens",
    "scheduler": "own", "guidance_scale": 2.0, "rescale": 0.0, "context": 0.3,
}  # fmt: skip
FACTS = {"photos": "p", "VAE": "v", "crop": "0.3"}


@pytest.fixture(scope="module")
def backbone(checkpoints: dict[str, Path]) -> InpaintBackbone:
    path = str(checkpoints["inpaint"])
    return InpaintBackbone.load(Checkpoint(path=path), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def method() -> Method:
    return find("dreammix", SETTINGS)


def make(count: int = 5, size: tuple[int, int] = (32, 32)) -> list[Example]:
    rng = np.random.default_rng(0)
    mask = np.zeros(size, np.uint8)
    mask[8:24, 8:24] = 255
    return [
        Example(
            id=f"e{k}", image=rng.integers(0, 256, (*size, 3), np.uint8), mask=mask,
            prompt="a red mug" if k % 2 else "a sks mug", pool="regular" if k == 3 else "subject",
        )
        for k in range(count)
    ]  # fmt: skip


def test_it_is_what_the_encoders_say(
    backbone: InpaintBackbone, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PART", 2)
    examples = [*make(5), replace(make(1, (32, 64))[0], id="wide")]
    encode(method, backbone, examples, tmp_path / "e", facts=FACTS, root=tmp_path / "work")
    encoded = Encoded.open(tmp_path / "e", FACTS)
    assert sorted(encoded.ids) == ["e0", "e1", "e2", "e3", "e4", "wide"]
    assert encoded.blocks == [0, 0, 1, 1, 2, 3]
    by_id = {example.id: example for example in examples}
    for row, id in enumerate(encoded.ids):
        direct = method.condition(backbone, [by_id[id]])
        told = encoded.told([row])
        assert told.keys() == direct.keys()
        for name, value in direct.items():
            torch.testing.assert_close(told[name], value, rtol=1e-4, atol=1e-5)
        assert encoded.prompts[row] == by_id[id].prompt and encoded.pools[row] == by_id[id].pool
    assert encoded.told([0, 3])["z_0"].shape == (2, 4, 16, 16)
    assert encoded.latent_shape(encoded.ids.index("wide")) == (4, 16, 32)
    text = encoded.text(["a red mug", "", "a red mug"])
    direct = backbone.encode_text(("a red mug", "", "a red mug"))
    torch.testing.assert_close(text["context"], direct.context, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text["pooled"], direct.pooled, rtol=1e-4, atol=1e-5)


def test_a_stale_folder_is_refused_and_says_what_changed(
    backbone: InpaintBackbone, method: Method, tmp_path: Path
) -> None:
    encode(method, backbone, make(2), tmp_path / "e", facts=FACTS, root=tmp_path / "work")
    with pytest.raises(UserError, match=r"VAE was v, is w; seed was nothing, is 1\."):
        Encoded.open(tmp_path / "e", FACTS | {"VAE": "w", "seed": "1"})
    assert facts_of(tmp_path / "e") == FACTS and facts_of(tmp_path / "none") is None
    with pytest.raises(UserError, match="not to the end"):
        Encoded.open(tmp_path / "none", FACTS)
    path = tmp_path / "e" / "examples-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="was written with"):
        Encoded.open(tmp_path / "e", FACTS).told([0])


@pytest.mark.parametrize(
    ("part", "changed"), [("vae", "VAE"), ("tokenizer", "tokenizers"), ("text_encoder_2", "text")]
)
def test_a_change_of_an_encoder_is_a_changed_fact(
    checkpoints: dict[str, Path], tmp_path: Path, part: str, changed: str
) -> None:
    copy = Path(shutil.copytree(checkpoints["inpaint"], tmp_path / "copy"))
    before = encoder_digests(Checkpoint(path=str(copy)))
    file = sorted((copy / part).glob("*.json"))[0]
    file.write_text(file.read_text() + " ")
    after = encoder_digests(Checkpoint(path=str(copy)))
    assert next(name for name in before if before[name] != after[name]).startswith(changed)
    assert sum(before[name] != after[name] for name in before) == 1


def test_interrupted_it_continues_and_ends_the_same(
    backbone: InpaintBackbone, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PART", 2)
    encode(method, backbone, make(), tmp_path / "whole", facts=FACTS, root=tmp_path / "a")
    calls = []

    def condition(backbone: InpaintBackbone, examples: list[Example]) -> dict[str, torch.Tensor]:
        calls.append([example.id for example in examples])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return type(method).condition(method, backbone, examples)

    monkeypatch.setattr(method, "condition", condition, raising=False)
    for _ in range(2):
        try:
            encode(method, backbone, make(), tmp_path / "torn", facts=FACTS, root=tmp_path / "b")
        except KeyboardInterrupt:
            assert not (tmp_path / "torn").exists()
    assert calls == [["e0", "e1"], ["e2", "e3"], ["e2", "e3"], ["e4"]]
    manifests = [(tmp_path / n / "manifest.json").read_text() for n in ("whole", "torn")]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"mask": np.zeros((32, 32), np.uint8)}, "mask is empty"),
        ({"mask": np.full((16, 32), 255, np.uint8)}, r"mask is \(16, 32\)"),
        ({"id": "e0"}, "same id"),
        ({"mask": np.eye(32, k=1, dtype=np.uint8) * 255 * (np.arange(32) == 5)}, "no cell"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    backbone: InpaintBackbone, method: Method, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    examples = [make()[0], replace(make()[1], **change)]
    with pytest.raises(UserError, match=why):
        encode(method, backbone, examples, tmp_path / "e", facts=FACTS, root=tmp_path / "work")
    assert not (tmp_path / "e").exists()


def test_what_is_not_finite_is_refused(
    backbone: InpaintBackbone, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_images = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda images: encode_images(images) / 0)
    with pytest.raises(UserError, match=r"'e0' was encoded\. Its z_0 is not finite"):
        encode(method, backbone, make(1), tmp_path / "e", facts=FACTS, root=tmp_path / "work")


def test_it_is_read_from_an_object_store(
    backbone: InpaintBackbone, method: Method, tmp_path: Path, object_store: str
) -> None:
    encode(method, backbone, make(), tmp_path / "e", facts=FACTS, root=tmp_path / "work")
    client = boto3.client("s3", endpoint_url=object_store)
    client.create_bucket(Bucket="encoded")
    for path in (tmp_path / "e").iterdir():
        client.upload_file(str(path), "encoded", f"set/{path.name}")
    here = Encoded.open(tmp_path / "e", FACTS)
    there = Encoded.open("s3://encoded/set", FACTS, cache=tmp_path / "cache")
    assert there.ids == here.ids
    assert torch.equal(there.told([4, 0])["z_0"], here.told([4, 0])["z_0"])
    assert torch.equal(there.text([""])["context"], here.text([""])["context"])
