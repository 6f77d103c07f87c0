"""Proves that T5's recipe finds the phrases of a caption, and that tokens know their own thing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from insitu import world
from recipe import t5


@given(st.integers(0, 10**6))
def test_phrases_are_whole_and_apart(index: int) -> None:
    text, spans = t5.caption(index)
    assert spans
    assert len({number for *_, number in spans}) == len(spans)
    covered = np.zeros(len(text), int)
    for start, end, number in spans:
        covered[start:end] += 1
        assert text[start:end].split()[0] in {"a", "an"} or number == t5.PLACE
        assert (text + " ")[end] in " ," and text[:start][-1:] in ("", " ")
    assert covered.max() == 1


def test_every_thing_is_found_and_numbered_from_the_left() -> None:
    rng = np.random.default_rng(0)
    two = [world.sample_subject(rng, category=name) for name in ("mug", "cat")]
    scene = world.sample_scene(rng, things=list(two), style="photo")
    left, right = (scene.things[i] for i in np.argsort([frame.cx for frame in scene.frames]))
    said = [world.describe(thing, detail="colour") for thing in (left, right)]
    text = f"{said[1]} to the right of {said[0]} {world.place(scene)}"
    found = {number: text[a:b] for a, b, number in t5.phrases(scene, text)}
    assert found == {0: said[0], 1: said[1], t5.PLACE: world.place(scene)}


@torch.no_grad()
@pytest.mark.parametrize(("first", "second"), [("mug", "cat"), ("boot", "house"), ("car", "bird")])
def test_a_token_follows_its_own_things_colour(first: str, second: str) -> None:
    encoder, tokenizer = t5.trained()

    def noun(one: str, other: str) -> Tensor:
        ids = tokenizer(f"a {one} {first} and a {other} {second}", return_tensors="pt").input_ids
        return encoder(ids).last_hidden_state[0, 2]

    base = noun("red", "blue")
    own = (noun("green", "blue") - base).norm()
    others = (noun("red", "green") - base).norm()
    assert own > 3 * others
