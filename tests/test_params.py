"""Proves that params.yaml is loaded as written, and that anything else is refused in three parts
naming the key and the file. Needs the repository's params.yaml."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from insitu.errors import UserError
from insitu.params import Checkpoint, Params, load

SHIPPED = Path(__file__).parents[1] / "params.yaml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FREE = re.compile(r"clothes\.|registry\.gate\.\w+\.")
"""Below these, keys are named freely, by what is worn and what is measured: none is a mistake."""


CONTENT: dict[str, Any] = YAML(typ="safe", pure=True).load(SHIPPED.read_text())


def shipped() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


def with_value(key: str, value: object) -> dict[str, Any]:
    """The shipped settings with one dotted key set, whether it exists or not."""
    content = shipped()
    group = content
    *parents, name = key.split(".")
    for parent in parents:
        group = group[parent]
    group[name] = value
    return content


def keys(group: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in group.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "params.yaml"


def refusal(file: Path, content: dict[str, Any]) -> UserError:
    file.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))
    with pytest.raises(UserError) as caught:
        load(file)
    return caught.value


def test_shipped_settings_are_loaded_as_dvc_reads_them() -> None:
    params = load(SHIPPED)
    assert params.model_dump(mode="json", exclude_unset=True) == load_yaml(str(SHIPPED))
    assert params.gallery.size == 64


def test_settings_are_frozen_and_keyword_only() -> None:
    params = load(SHIPPED)
    with pytest.raises(ValidationError, match="frozen"):
        params.gallery.flux.steps = 3
    with pytest.raises(TypeError):
        Checkpoint("models/nano/flux")  # type: ignore[call-arg]


def test_every_setting_says_what_it_is() -> None:
    def undocumented(model: type[Any]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if not field.description:
                yield f"{model.__name__}.{name}"
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation)

    assert list(undocumented(Params)) == []


@settings(max_examples=30)
@given(data=st.data())
def test_a_misspelt_key_is_named_in_full_and_the_right_one_suggested(
    file: Path, data: st.DataObject
) -> None:
    named = [key for key in keys(shipped()) if len(key) > 4 and not FREE.search(key)]
    key = data.draw(st.sampled_from(named))
    group, dot, name = key.rpartition(".")
    cut = data.draw(st.integers(1, len(name) - 1))
    wrong = f"{group}{dot}{name[:cut]}q{name[cut:]}"
    error = refusal(file, with_value(wrong, 1))
    assert f"`{wrong}`" in error.given
    assert str(file) in error.given
    assert f"`{key}`" in error.todo


def test_a_key_of_another_group_is_suggested_from_there(file: Path) -> None:
    assert "`gallery.flux.steps`" in refusal(file, with_value("steps", 25)).todo


def test_an_unknown_key_like_no_other_gets_the_list_of_its_group(file: Path) -> None:
    todo = refusal(file, with_value("gallery.inpaint.xyzzy", 25)).todo
    assert "`gallery.inpaint.steps`" in todo
    assert "`gallery.inpaint.samples`" in todo


@settings(max_examples=30)
@given(data=st.data())
def test_a_missing_key_is_named_in_full(file: Path, data: st.DataObject) -> None:
    named = [key for key in keys(shipped()) if not FREE.search(key)]
    key = data.draw(st.sampled_from(named))
    content = group = shipped()
    *parents, name = key.split(".")
    for parent in parents:
        group = group[parent]
    del group[name]
    error = refusal(file, content)
    assert error.given == f"`{key}` is missing from {file}."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", "0"),
        ("seed", True),
        ("seed", 1.5),
        ("seed", None),
        ("seed", [1] * 500),
        ("device", "gpu"),
        ("dtype", "fp32"),
        ("models", 3),
        ("models.clip", "models/nano/clip"),
        ("models.clip.path", ""),
        ("gallery.size", 72),
        ("gallery.size", 0),
        ("gallery.scenes", 0),
        ("gallery.scenes", 65),
        ("gallery.face_pairs", 1000),
        ("gallery.flux.steps", 0),
        ("gallery.flux.guidance_scale", 0.5),
        ("gallery.flux.guidance_scale", float("nan")),
        ("gallery.flux.guidance_scale", float("inf")),
        ("gallery.flux.true_cfg_scale", 0.0),
        ("gallery.flux.max_sequence_length", 513),
        ("gallery.inpaint.steps", -3),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(file: Path, key: str, value: object) -> None:
    error = refusal(file, with_value(key, value))
    assert error.given.startswith(f"`{key}` is ")
    assert str(file) in error.given
    assert error.why.startswith("It must ") or "should" in error.why
    assert f"`{key}`" in error.todo
    assert len(str(error)) < 1000


def test_an_integer_is_accepted_where_a_float_is_meant(file: Path) -> None:
    YAML().dump(with_value("gallery.flux.guidance_scale", 4), file)
    assert load(file).gallery.flux.guidance_scale == 4.0


@pytest.mark.parametrize(
    ("checkpoint", "why"),
    [
        ({"path": "owner/model"}, "unpinned"),
        ({"path": "model"}, "unpinned"),
        ({"path": "owner/model", "revision": "main"}, "not a commit"),
        ({"path": "owner/model", "revision": "v1.0"}, "not a commit"),
        ({"path": "models/nano/flux", "revision": COMMIT}, "would be ignored"),
        ({"path": "./flux", "revision": COMMIT}, "would be ignored"),
    ],
)
def test_an_unpinned_base_is_refused(file: Path, checkpoint: dict[str, str], why: str) -> None:
    error = refusal(file, with_value("models.flux", checkpoint))
    assert "`models.flux.revision`" in error.given
    assert why in error.why


def test_a_path_is_a_folder_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Checkpoint(path="owner/model", revision=COMMIT).is_hub_id
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert not Checkpoint(path="owner/model").is_hub_id
    with pytest.raises(ValidationError, match="would be ignored"):
        Checkpoint(path="owner/model", revision=COMMIT)


@pytest.mark.parametrize(("device", "refused"), [("cpu", True), ("auto", False), ("cuda", False)])
def test_float16_needs_cuda(file: Path, device: str, refused: bool) -> None:
    content = {**shipped(), "device": device, "dtype": "float16"}
    if refused:
        assert "float16" in refusal(file, content).why
    else:
        YAML().dump(content, file)
        assert load(file).dtype == "float16"


def test_offload_needs_a_gpu(file: Path) -> None:
    content = shipped()
    content["painting"]["offload"] = "leaf"
    told = refusal(file, content | {"device": "cpu"})
    assert told.given.startswith("`painting` in") and "would save nothing" in told.why
    YAML().dump(content, file)  # `auto` may find one
    assert load(file).painting_base()["offload"] == "leaf"
    told = refusal(file, with_value("painting.text", True))
    assert "nothing to do to the text encoder" in told.why


def test_offload_is_no_setting_of_what_learns(file: Path) -> None:
    told = refusal(file, with_value("tune.base.offload", "leaf"))
    assert told.given.startswith("`tune.base.offload`") and "`painting.offload`" in told.todo


def test_tuning_that_would_never_be_validated_is_refused(file: Path) -> None:
    told = refusal(file, with_value("tune.validate_every", shipped()["tune"]["steps"] + 1))
    assert told.given.startswith("`tune`") and "validate_every" in told.todo


def test_all_problems_are_reported_at_once(file: Path) -> None:
    content = with_value("gallery.flux.stpes", 3)
    content.update(seed=-1, device="cpu", dtype="float16")
    content["models"]["flux"] |= {"path": "owner/model"}
    error = refusal(file, content)
    assert "has 4 problems" in error.given
    for part in (error.given, error.why, error.todo):
        assert "(4)" in part
        assert "(5)" not in part
        assert "\n" not in part
    for named in ("`gallery.flux.stpes`", "`seed`", "`dtype`", "`models.flux.revision`"):
        assert named in error.given


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"seed: 1\nseed: 2\n", "line 2: found duplicate key"),
        (b"gallery:\n  size: 64\n  size: 32\n", "line 3: found duplicate key"),
        (b"seed: !secret 3\n", "tag"),
        (b"a: [\n", "line 2"),
        (b"", "does not hold"),
        (b"- 1\n", "does not hold"),
        (b"a: \xff\n", "not UTF-8"),
    ],
)
def test_anything_but_plain_yaml_is_refused(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(file)
    assert why in caught.value.why
    assert str(file) in caught.value.given


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("anyphoto.scale", [0.8, 0.2], "above the greatest"),
        ("anyphoto.milestones", [0.4, 0.2], "rises once at each"),
        ("anyphoto.face_until", 0.0, "would never count"),
        ("anyphoto.degradations", ["rust"], "must be"),
        ("anyphoto.faces", 9, "less than or equal to 8"),
    ],
)
def test_contradictions_of_anyphoto_are_refused(
    file: Path, key: str, value: object, why: str
) -> None:
    error = refusal(file, with_value(key, value))
    assert "anyphoto" in error.given and why in error.why and error.todo


def test_guidance_by_identity_needs_identity_dropout(file: Path) -> None:
    content = with_value("anyphoto.identity_scale", 2.0)
    content["anyphoto"]["train"]["drop"]["condition"] = 0.0
    assert "train.drop.condition 0" in refusal(file, content).given
