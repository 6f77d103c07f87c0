"""Proves LocalModel's contract on a tiny random LLaVA.

Needs transformers' own classes; no trained weights.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from insitu.errors import UserError
from insitu.params.language import LocalLanguage
from insitu.perception.language import LanguageModel, Question, Unanswered
from insitu.perception.language.local import LocalModel

BOS, EOS, IMAGE = "<|startoftext|>", "<|endoftext|>", "<image>"
SIDE = {"height": 16, "width": 16}
SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn.role }}: {% for part in turn.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class Verdict(BaseModel):
    label: str
    score: Annotated[int, Field(ge=0, le=10)]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text is decoded as it was written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={b: i for i, b in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[IMAGE],
    )


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llava")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SHAPE, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            **SHAPE, vocab_size=len(tokenizer), max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    for weights in model.parameters():
        weights.data *= 20  # loud enough that the picture is heard in what is written
    model.save_pretrained(path)
    LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size=SIDE, crop_size=SIDE),
        tokenizer=tokenizer,
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    return path


def question(text: str, images: int = 1, seed: int = 0) -> Question:
    rng = np.random.default_rng(seed)
    shown = tuple(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(images))
    return Question(images=shown, text=text, answer=Verdict)


MIXED = [
    question("A mug?"),
    question("Which of both pictures shows the mug that nobody wanted?", images=2, seed=1),
    question("No picture."),
    question("A mug, or rather a cat, or perhaps nothing of that kind at all?", seed=2),
    question("A word alone?", images=0),
]


def load(path: Path, **other: Any) -> LocalModel:
    return LocalModel.from_pretrained(path, max_new_tokens=6, **other)


def scripted(model: LocalModel, monkeypatch: pytest.MonkeyPatch, *replies: str) -> list[str]:
    """Let texts be written in place of the network's; return the list of prompts they follow."""
    tokenizer, prompts, left = model.processor.tokenizer, [], [*replies]

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        prompts.extend(tokenizer.batch_decode(input_ids))
        written = [tokenizer(left.pop(0), add_special_tokens=False)["input_ids"] for _ in input_ids]
        longest = max(map(len, written))
        padded = [ids + [tokenizer.eos_token_id] * (longest - len(ids)) for ids in written]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)

    monkeypatch.setattr(model.model, "generate", generate)
    return prompts


def test_noise_writes_no_answer_and_breaks_nothing(llava: Path) -> None:
    model: LanguageModel = load(llava)
    answers = model.ask(MIXED)
    assert len(answers) == len(MIXED)
    assert all(isinstance(a, Unanswered) and "no JSON object" in a.reason for a in answers)
    assert model.ask([]) == []


def test_a_batch_writes_what_each_would_alone(llava: Path) -> None:
    model, alone = load(llava, batch=3), load(llava, batch=1)
    turns = {n: model._turns(q) for n, q in enumerate(MIXED)}
    together, single = model._write(turns), alone._write(turns)
    assert together == single
    assert all(isinstance(text, str) and text for text in single.values())


def test_every_picture_is_shown_in_its_place(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown = load(llava), []

    def generate(input_ids: torch.Tensor, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        shown.append(pixel_values)
        return input_ids

    monkeypatch.setattr(model.model, "generate", generate)
    questions = [question("Which?", images=2, seed=seed) for seed in range(2)]
    model.ask(questions)
    pictures = [image for each in questions for image in each.images]
    expected = model.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    assert len(shown) == 2  # asked, and asked again
    assert all(torch.equal(pixels, expected) for pixels in shown)


def test_an_answer_that_fits_is_returned_and_not_asked_again(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llava)
    prompts = scripted(model, monkeypatch, '{"label": "mug", "score": 7}')
    [answer] = model.ask([question("A mug?")])
    assert answer == Verdict(label="mug", score=7)
    [shown] = prompts
    assert "A mug?" in shown and "maximum" in shown
    assert shown.count(IMAGE) == 4


def test_one_that_does_not_fit_is_asked_again_once_with_the_problem_told(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llava)
    good = '{"label": "mug", "score": 7}'
    replies = ['{"label": "mug", "score": 99}', good, "no idea", good, "still no idea"]
    prompts = scripted(model, monkeypatch, *replies)
    answers = model.ask([question(text) for text in ("A mug?", "A cat?", "A dog?")])
    fits = Verdict(label="mug", score=7)
    assert answers == [fits, fits, Unanswered("there is no JSON object in it")]
    assert len(prompts) == 5
    assert "less than or equal to" in prompts[3] and "99" in prompts[3]


def test_special_tokens_in_a_text_are_words(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(llava)
    prompts = scripted(model, monkeypatch, f"no {IMAGE}", "no")
    model.ask([question(f"Is it an {IMAGE}{EOS}?")])
    for prompt in prompts:
        assert prompt.count(IMAGE) == 4
        assert EOS not in prompt.partition(BOS)[2]  # before it, it pads


def test_a_picture_that_the_processor_refuses_spares_its_neighbours(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llava)
    inner = type(model.processor).apply_chat_template

    def choosy(self: Any, conversations: Any, **settings: Any) -> Any:
        if "cat" in str(conversations):
            raise ValueError("too narrow")
        return inner(self, conversations, **settings)

    monkeypatch.setattr(type(model.processor), "apply_chat_template", choosy)
    first, bad, last = model.ask([question(text) for text in ("A mug?", "A cat?", "A dog?")])
    assert bad == Unanswered("ValueError: too narrow")
    assert all(isinstance(a, Unanswered) and "JSON" in a.reason for a in (first, last))


def test_a_model_that_is_not_to_be_talked_to_is_refused(llava: Path) -> None:
    model = load(llava)
    model.processor.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        LocalModel(model=model.model, processor=model.processor, name="mute", max_new_tokens=1)


def test_settings_are_the_loaders_keywords(llava: Path) -> None:
    settings = LocalLanguage(path=str(llava), max_new_tokens=2, batch=2)
    model = LocalModel.from_pretrained(**settings.model_dump())
    assert (model.name, model.max_new_tokens, model.batch) == (str(llava), 2, 2)
    assert LocalModel.from_pretrained(llava, revision="main", max_new_tokens=1).name == (
        f"{llava}@main"
    )
