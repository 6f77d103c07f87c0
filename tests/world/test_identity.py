"""Proves that an identity is a vector which no caption carries, and that edits change only what
they name.

Needs no checkpoint.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insitu import world

seeds = st.integers(0, 2**31)
subjects = st.builds(lambda seed: world.sample_subject(world.rng_for("identity", seed)), seeds)
faces = st.builds(lambda seed: world.sample_face(world.rng_for("identity", seed)), seeds)
edits = st.builds(
    world.Edit,
    colour=st.none() | st.sampled_from([*world.COLOURS]),
    pattern=st.none() | st.sampled_from(world.PATTERNS),
    material=st.none() | st.sampled_from(world.MATERIALS),
    accessory=st.none() | st.sampled_from(world.ACCESSORIES),
    accessory_colour=st.sampled_from([*world.COLOURS]),
)


def picture(thing: world.Thing, style: str = "photo") -> world.Rendering:
    """The thing large, always seen the same way."""
    frame = world.Frame(0.5, 0.5, 0.4)
    return world.render(world.Scene(things=(thing,), frames=(frame,), style=style), parts=True)


def test_a_stream_belongs_to_its_key() -> None:
    keys = [("a",), ("b",), ("a", 0), ("a", 1), ("a", 0, 0), ("a0",)]
    draws = [world.rng_for(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    assert [world.rng_for(*key).integers(2**62) for key in keys] == draws


@given(seed=seeds)
def test_the_same_stream_gives_the_same_identity(seed: int) -> None:
    one, two = (world.sample_subject(world.rng_for("identity", seed)) for _ in range(2))
    assert one == two and np.array_equal(one.vector(), two.vector())


def test_vectors_share_a_layout_and_tell_identities_apart() -> None:
    drawn = [world.sample_subject(world.rng_for("identity", seed)) for seed in range(2000)]
    vectors = np.stack([subject.vector() for subject in drawn])
    assert vectors.dtype == np.float32
    assert len(np.unique(vectors, axis=0)) == len(drawn)
    assert vectors.min() > -0.2 and vectors.max() <= 1
    count = len(world.CATEGORIES)
    assert (
        vectors[:, :count].argmax(1) == [world.CATEGORIES.index(s.category) for s in drawn]
    ).all()
    assert vectors[:, :count].sum() == len(drawn)


def changed(subject: world.Subject, name: str) -> world.Subject:
    """The subject with one detail altered that its vector must tell."""
    base, pattern = subject.base, subject.pattern
    match name:
        case "shade":
            r, g, b = base.offset
            return replace(subject, base=replace(base, offset=(r, g, b - 5 if b > 0 else b + 5)))
        case "pattern":
            other = world.PATTERNS[world.PATTERNS.index(pattern.kind) - 1]
            return replace(subject, pattern=replace(pattern, kind=other))
        case "phase":
            return replace(subject, pattern=replace(pattern, phase=(pattern.phase + 0.3) % 1))
        case "angle":
            return replace(subject, pattern=replace(pattern, angle=pattern.angle + 10))
        case "material":
            other = world.MATERIALS[world.MATERIALS.index(subject.material) - 1]
            return replace(subject, material=other)
        case "shape":
            wide, high, detail = subject.shape
            return replace(
                subject, shape=(wide, high, detail - 0.4 if detail > 0 else detail + 0.4)
            )
        case "marks":
            return replace(subject, marks=subject.marks[1:])
        case _:
            hat = world.Accessory(kind="hat", shade=world.Shade(name="red", offset=(1, 2, 3)))
            return replace(subject, accessory=hat)


@pytest.mark.parametrize(
    "name", ["shade", "pattern", "phase", "angle", "material", "shape", "marks", "accessory"]
)
@given(subject=subjects)
@settings(max_examples=20)
def test_every_detail_moves_the_vector(name: str, subject: world.Subject) -> None:
    assume(name != "marks" or subject.marks)
    other = changed(subject, name)
    assert not np.array_equal(subject.vector(), other.vector())
    assert subject.vector().shape == other.vector().shape


def test_one_caption_fits_many_identities() -> None:
    """What a caption cannot say is seen: equal words, equal view, other pictures."""
    for seed in range(20):
        rng = world.rng_for("twins", seed)
        subject = world.sample_subject(rng, accessory=False)
        stranger = world.sample_subject(rng, category=subject.category)
        twin = replace(
            subject,
            base=replace(stranger.base, name=subject.base.name),
            pattern=replace(stranger.pattern, kind=subject.pattern.kind),
            shape=stranger.shape,
            marks=stranger.marks,
        )
        assert world.describe(twin) == world.describe(subject)
        apart = picture(subject).image.astype(int) - picture(twin).image
        assert np.abs(apart).max(2).mean() > 1


@given(subject=subjects, seed=seeds)
@settings(max_examples=15)
def test_portraits_show_one_identity_in_many_views(subject: world.Subject, seed: int) -> None:
    views = [world.portrait(subject, world.rng_for("view", seed, i)) for i in (0, 0, 1)]
    assert np.array_equal(views[0].image, views[1].image)
    assert not np.array_equal(views[0].image, views[2].image)
    for view in views:
        assert view.things[0].thing == subject
        x0, y0, x1, y1 = view.things[0].box_xyxy01
        assert max(x1 - x0, y1 - y0) > 0.5 and view.things[0].visible == 1


@given(subject=subjects, edit=edits)
def test_an_edit_changes_what_it_names_and_nothing_else(
    subject: world.Subject, edit: world.Edit
) -> None:
    edited = edit.apply(subject)
    assert edited.colour == (edit.colour or subject.colour)
    assert edited.pattern == replace(subject.pattern, kind=edit.pattern or subject.pattern.kind)
    assert edited.material == (edit.material or subject.material)
    assert (edited.category, edited.shape, edited.marks) == (
        subject.category, subject.shape, subject.marks
    )  # fmt: skip
    assert edited.base == subject.base or edit.colour
    # A second colour equal to the new one would hide the pattern, so it gives way.
    assert edited.second == subject.second or edit.colour == subject.second.name
    assert edited.colour != edited.second.name or not edit.colour
    if edit.accessory and edited.accessory:
        assert edited.accessory.kind == edit.accessory
        assert edited.accessory.shade.name == edit.accessory_colour
    else:
        assert edited.accessory == subject.accessory


@given(subject=subjects, edit=edits)
@settings(max_examples=25)
def test_edits_of_the_surface_keep_the_silhouette(subject: world.Subject, edit: world.Edit) -> None:
    edit = replace(edit, accessory=None)
    before, after = picture(subject).things[0], picture(edit.apply(subject)).things[0]
    assert before.box_xyxy01 == after.box_xyxy01 and np.array_equal(before.mask, after.mask)
    assert before.parts.keys() == after.parts.keys()


def test_an_accessory_is_drawn_and_owned_by_its_wearer() -> None:
    for kind in world.ACCESSORIES:
        for category in world.CATEGORIES:
            bare = world.sample_subject(world.rng_for("worn"), category=category, accessory=False)
            dressed = world.Edit(accessory=kind, accessory_colour="cyan").apply(bare)
            parts = picture(dressed).things[0].parts
            assert parts[kind].sum() > 20, (kind, category)
            assert kind not in picture(bare).things[0].parts


@given(face=faces, name=st.sampled_from([field.name for field in fields(world.Face)]))
def test_a_faces_vector_is_its_numbers(face: world.Face, name: str) -> None:
    vector = face.vector()
    assert vector.dtype == np.float32 and vector.shape == (23,)
    assert vector.min() >= 0 and vector.max() <= 1
    value = getattr(face, name)
    other = replace(face, **{name: 1 - value if abs(value - 0.5) > 0.01 else 0.0})
    assert np.count_nonzero(other.vector() != vector) == 1


@given(face=faces)
@settings(max_examples=30)
def test_hair_beard_and_glasses_are_drawn_as_told(face: world.Face) -> None:
    person = replace(world.sample_person(world.rng_for("face"), face=face), accessory=None)
    parts = picture(person).things[0].parts
    assert ("hair" in parts) == (face.hair_style != "no")
    assert ("beard" in parts) == face.has_beard
    bare = replace(person, face=replace(face, glasses=0.3))
    same = np.array_equal(picture(bare).image, picture(person).image)
    assert same != face.wears_glasses


@given(face=faces, seed=seeds)
@settings(max_examples=15)
def test_face_photos_show_one_face_large(face: world.Face, seed: int) -> None:
    photos = [world.face_photo(face, world.rng_for("photo", seed, i)) for i in range(2)]
    assert not np.array_equal(photos[0].image, photos[1].image)
    for photo in photos:
        person = photo.things[0].thing
        assert isinstance(person, world.Person) and person.face == face
        assert photo.things[0].face_box_xyxy01 is not None
        x0, y0, x1, y1 = photo.things[0].face_box_xyxy01
        assert x1 - x0 > 0.35 and y1 - y0 > 0.45
