"""Tokenizers that know the world's vocabulary: one token a word, pieces for everything else.

Both are the plain transformers classes, so `from_pretrained` and diffusers' pipelines read them.
"""

import json
import string
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # marks a token that ends a word
PUNCTUATION = tuple(",.;:!?'\"()-")
# Unigram scores are log-probabilities: one word piece must beat any spelling in letters.
WORD_SCORE, LETTER_SCORE = -5.0, -20.0


def clip_tokenizer(words: Iterable[str], folder: Path | str, max_length: int = 77) -> CLIPTokenizer:
    """Save a byte-level BPE tokenizer in `folder` and return it as reloaded from there.

    A tokenizer that lies there and has every word as one token keeps its ids: a model that is
    trained on, or resumed, must not see its words renumbered.

    Args:
        words: lower-case words, each to become one token. CLIP splits text at anything but
            letters before BPE, so "two-tone" is the three tokens "two", "-", "tone".
        max_length: tokens, with the two special ones.
    """
    texts = [*sorted({part for word in words for part in _letter_runs(word)}), *PUNCTUATION]
    vocab, merges = _kept_bpe(texts, Path(folder)) or _train_bpe(texts)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)
    tokenizer.save_pretrained(str(folder))
    return CLIPTokenizer.from_pretrained(str(folder))


def t5_tokenizer(words: Iterable[str], folder: Path | str, max_length: int = 512) -> T5Tokenizer:
    """Save a Unigram tokenizer in `folder` and return it as reloaded from there.

    Ids: pad 0, eos 1, unk 2. Each word is one piece; other text falls back to single characters
    (printable ASCII), and what is not ASCII to unk.
    """
    pieces = {f"▁{word}": WORD_SCORE for word in sorted(set(words))}
    pieces |= dict.fromkeys(PUNCTUATION, WORD_SCORE)
    for character in (*string.ascii_letters, *string.digits, *string.punctuation):
        pieces.setdefault(character, LETTER_SCORE)
    pieces.setdefault("▁", LETTER_SCORE)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces.items()]
    # Sentinels (extra ids) serve T5's denoising pre-training, which nothing here does.
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=max_length)
    tokenizer.save_pretrained(str(folder))
    return T5Tokenizer.from_pretrained(str(folder))


def compact(folder: Path) -> None:
    """Rewrite every `tokenizer.json` below `folder` without white space: a third of its size."""
    for path in folder.rglob("tokenizer.json"):
        facts = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(facts, ensure_ascii=False, separators=(",", ":")), "utf-8")


def _letter_runs(word: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in word.lower()).split()


Bpe = tuple[dict[str, int], list[tuple[str, str]]]


def _kept_bpe(texts: list[str], folder: Path) -> Bpe | None:
    """Vocabulary and merges of the tokenizer in `folder`, if each text is one token of it."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    if not {text + SUFFIX for text in texts} <= model["vocab"].keys():
        return None
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _train_bpe(texts: list[str]) -> Bpe:
    """Learn merges until each text is a single token; return vocabulary and merges.

    Learned, rather than chaining each word's letters: merges are applied by rank wherever they
    fit, so the chain for "cat" would break the one for "scarf". By our own hands, since the
    tokenizers library breaks ties between equally frequent pairs differently in every process.
    """
    spelled = [[*_bytes_of(text)[:-1], _bytes_of(text)[-1] + SUFFIX] for text in texts]
    merges: list[tuple[str, str]] = []
    while any(len(pieces) > 1 for pieces in spelled):
        counts = Counter(pair for pieces in spelled for pair in pairwise(pieces))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        spelled = [_merged(pieces, best) for pieces in spelled]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + SUFFIX for letter in alphabet), *("".join(m) for m in merges)]
    # The end's id is the highest, as in OpenAI's vocabulary: OWL-ViT looks for the largest id.
    # One string can be reached by two merges; it is one token all the same.
    return {t: i for i, t in enumerate(dict.fromkeys([*tokens, BOS, EOS]))}, merges


def _bytes_of(text: str) -> str:
    """A text's UTF-8 bytes as the printable characters that byte-level BPE writes them with."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in split.pre_tokenize_str(text))


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in pieces:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result
