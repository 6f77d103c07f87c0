"""Proves that every word of the world is one token, and that any other text still tokenizes.

Needs the world's vocabulary and transformers' plain tokenizer classes.
"""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPTokenizer, T5Tokenizer

from insitu import world
from recipe.tokenizers import clip_tokenizer, t5_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return clip_tokenizer(world.vocabulary(), tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> T5Tokenizer:
    return t5_tokenizer(world.vocabulary(), tmp_path_factory.mktemp("t5"))


def test_each_word_is_one_clip_token(clip: CLIPTokenizer) -> None:
    for word in world.vocabulary():
        # CLIP splits at hyphens before BPE, whatever the merges say.
        parts = word.replace("-", " - ").split()
        assert clip.tokenize(word) == [f"{part}</w>" for part in parts]


def test_each_word_is_one_t5_token(t5: T5Tokenizer) -> None:
    for word in world.vocabulary():
        assert t5.tokenize(word) == [f"▁{word}"]


def test_sentences_come_back(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    text = "a red striped mug wearing a blue hat, on the grass"
    decoded = clip.decode(clip(text).input_ids, skip_special_tokens=True)
    assert decoded.replace(" ,", ",") == text
    assert t5.decode(t5(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["gryphon", "42", "naïve", "日本", "two-tone", "", ",,;"])
def test_unknown_text_falls_back_to_pieces(clip: CLIPTokenizer, t5: T5Tokenizer, text: str) -> None:
    assert clip(text).input_ids[0] == clip.bos_token_id
    assert clip(text).input_ids[-1] == clip.eos_token_id
    assert t5(text).input_ids[-1] == t5.eos_token_id
    if text == "gryphon":
        assert len(clip.tokenize(text)) > 1
        assert len(t5.tokenize(text)) > 1


def test_punctuation_is_a_token(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    assert clip.tokenize("mug, cat")[1] == ",</w>"
    assert t5.tokenize("mug, cat")[1] == ","


def test_special_ids(clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    assert clip.model_max_length == 77
    assert clip.eos_token_id == len(clip) - 1  # OWL-ViT takes the largest id for the end


def test_ids_are_the_same_in_every_process_and_kept_afterwards(tmp_path: Path) -> None:
    # The ids of a few words, written down: Python's hash seed differs between runs.
    words = ["box", "bow", "on", "no", "art", "in"]
    ids = clip_tokenizer(words, tmp_path / "a").convert_tokens_to_ids([f"{w}</w>" for w in words])
    assert ids == [517, 518, 514, 515, 519, 516]
    file = tmp_path / "a" / "tokenizer.json"
    swapped = file.read_text().replace('"box</w>"', '"?"').replace('"bow</w>"', '"box</w>"')
    file.write_text(swapped.replace('"?"', '"bow</w>"'))
    kept = clip_tokenizer(words[:3], tmp_path / "a")
    assert kept.convert_tokens_to_ids(["bow</w>", "box</w>"]) == ids[:2]
    more = clip_tokenizer([*words, "gryphon"], tmp_path / "a")
    assert len(more.tokenize("gryphon")) == 1


def test_saved_padding_is_not_kept(tmp_path: Path) -> None:
    first = clip_tokenizer(["mug"], tmp_path)
    first("a mug", padding="max_length", max_length=77, truncation=True)
    first.save_pretrained(tmp_path)
    assert len(clip_tokenizer(["mug"], tmp_path)("mug").input_ids) == 3


def test_auto_classes_read_the_folders(tmp_path: Path) -> None:
    clip_tokenizer(["mug"], tmp_path / "clip")
    t5_tokenizer(["mug"], tmp_path / "t5")
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "clip"), CLIPTokenizer)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "t5"), T5Tokenizer)
