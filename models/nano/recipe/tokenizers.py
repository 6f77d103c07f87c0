"""Tokenizers that know the world's vocabulary: one token a word, pieces for everything else.

Both are the plain transformers classes, so `from_pretrained` and diffusers' pipelines read them.
"""

import json
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
PUNCTUATION = tuple(",.;:!?'\"()-")
# Unigram scores are log-probabilities: one word piece must beat any spelling in letters.
WORD_SCORE, LETTER_SCORE = -5.0, -20.0


def clip_tokenizer(words: Iterable[str], folder: Path | str, max_length: int = 77) -> CLIPTokenizer:
    """Save a byte-level BPE tokenizer in `folder` and return it as reloaded from there.

    Args:
        words: lower-case words, each to become one token. CLIP splits text at anything but
            letters before BPE, so "two-tone" is the three tokens "two", "-", "tone".
        max_length: tokens, with the two special ones.
    """
    letters = sorted({part for word in words for part in _letter_runs(word)})
    vocab, merges = _train_bpe([*letters, *PUNCTUATION])
    # Highest ids last, as in OpenAI's vocabulary: OWL-ViT finds the end by the largest id.
    vocab |= {BOS: len(vocab), EOS: len(vocab) + 1}
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


def _letter_runs(word: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in word.lower()).split()


def _train_bpe(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn merges until each text is a single token; return vocabulary and merges.

    Training, rather than chaining each word's letters: merges are applied by rank wherever they
    fit, so the chain for "cat" would break the one for "scarf"; learned ranks cannot clash.
    """
    suffix = "</w>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000, min_frequency=1, end_of_word_suffix=suffix, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [(left, right) for left, right in _merges_of(learner)]
    tokens = [*alphabet, *(letter + suffix for letter in alphabet), *("".join(m) for m in merges)]
    # One string can be reached by two merges; it is one token all the same.
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _merges_of(tokenizer: Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges
