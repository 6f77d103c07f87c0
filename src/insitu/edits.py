"""What a prompt changes about a subject: attributes that others take the place of."""

from collections.abc import Mapping, Sequence

from insitu.errors import UserError

Words = Mapping[str, Sequence[str]]
"""Attribute words by kind, such as {"colour": ["red"]}."""


def article(phrase: str) -> str:
    """A phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def replaced(prompt: str, own: Words, vocabulary: Words) -> tuple[str, ...]:
    """The subject's words of every kind of which the prompt has another one instead.

    Args:
        own: the subject's attributes.
        vocabulary: all words of each kind.
    """
    said = set(prompt.lower().replace(",", " ").split())
    return tuple(
        word
        for kind, words in own.items()
        if said & (set(vocabulary.get(kind, ())) - set(words))
        for word in words
        if word not in said
    )


def require_known(words: Sequence[str], own: Words, subject: str) -> None:
    """Refuse to replace what the subject does not have.

    Raises:
        UserError: a word is none of its attributes.
    """
    known = [word for kind in own.values() for word in kind]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UserError(
            f"The attribute {unknown[0]!r} of the subject {subject} was to be replaced.",
            f"It has no such attribute; its own are: {', '.join(known) or 'none'}.",
            "Name one of them, or leave it out: what the prompt adds needs no replacing.",
        )


def named(identifier: str, class_word: str, without: Sequence[str]) -> str:
    """What stands for a subject in a prompt, without the words that are replaced.

    Nor an "and" that stood beside one of them.
    """
    words = identifier.split()

    def joins_nothing(k: int) -> bool:
        return words[k] == "and" and any(word in without for word in words[k - 1 : k + 2])

    kept = [word for k, word in enumerate(words) if word not in without and not joins_nothing(k)]
    return " ".join([*kept, class_word])
