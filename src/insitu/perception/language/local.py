"""A vision-language model in this process: transformers' image-text-to-text classes."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image as Pictures
from pydantic import BaseModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from insitu.errors import UserError
from insitu.perception.language import Question, Unanswered, correction, parse, prompt

BATCH = 8  # questions per generation
Turns = list[dict[str, Any]]


class LocalModel:
    """Answers by greedy decoding, so that the same question gets the same answer."""

    def __init__(
        self,
        *,
        model: Any,
        processor: Any,
        name: str,
        max_new_tokens: int,
        batch: int = BATCH,
    ) -> None:
        """Take a loaded model and its processor.

        Raises:
            UserError: the processor has no chat template.
        """
        if not getattr(processor, "chat_template", None):
            raise UserError(
                f"The language model {name} was given.",
                "Its processor has no chat template, so nobody knows how it wants to be asked.",
                "Use a checkpoint tuned on instructions, or add its chat_template.jinja.",
            )
        self.model, self.processor, self.name = model, processor, name
        self.max_new_tokens, self.batch = max_new_tokens, batch
        tokenizer = processor.tokenizer
        self._pad = tokenizer.pad_token_id
        if self._pad is None:
            tokenizer.pad_token = tokenizer.eos_token
            self._pad = tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        special.add(getattr(processor, "image_token", None) or "<image>")
        self._special = sorted(token for token in special if len(token) > 1)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_new_tokens: int,
        batch: int = BATCH,
    ) -> Self:
        """Load an image-text-to-text model with its processor from a folder or hub id.

        Args:
            max_new_tokens: an answer's length at most.
            batch: questions answered at once.
        """
        model = AutoModelForImageTextToText.from_pretrained(path, revision=revision, dtype=dtype)
        return cls(
            model=model.to(device).eval(),
            processor=AutoProcessor.from_pretrained(path, revision=revision),
            name=f"{path}@{revision}" if revision else str(path),
            max_new_tokens=max_new_tokens,
            batch=batch,
        )

    def ask(self, questions: Sequence[Question]) -> list[BaseModel | Unanswered]:
        """Return one answer for each question, in order.

        An answer that does not fit is asked for once more, with the problem told.
        """
        turns = {number: self._turns(question) for number, question in enumerate(questions)}
        answers: dict[int, BaseModel | Unanswered] = {}
        for number, text in self._write(turns).items():
            answer = _answer(text, questions[number])
            if isinstance(text, str) and isinstance(answer, Unanswered):
                turns[number] += [
                    {"role": "assistant", "content": [self._text(text)]},
                    {"role": "user", "content": [self._text(correction(answer.reason))]},
                ]
            else:
                del turns[number]
            answers[number] = answer
        for number, text in self._write(turns).items():
            answers[number] = _answer(text, questions[number])
        return [answers[number] for number in range(len(questions))]

    def _write(self, turns: dict[int, Turns]) -> dict[int, str | Unanswered]:
        """What the model writes next in each conversation."""
        # Processors want as many pictures in each conversation of a batch.
        groups = defaultdict(list)
        for number, conversation in turns.items():
            pictures = [part for part in conversation[0]["content"] if part["type"] == "image"]
            groups[len(pictures)].append(number)
        written: dict[int, str | Unanswered] = {}
        for group in groups.values():
            for start in range(0, len(group), self.batch):
                part = group[start : start + self.batch]
                texts = self._write_apart([turns[number] for number in part])
                written |= dict(zip(part, texts, strict=True))
        return written

    def _write_apart(self, batch: list[Turns]) -> list[str | Unanswered]:
        """Write a batch; if that fails, each by itself, so that only the cause goes unanswered."""
        try:
            return [*self._generate(batch)]
        # What processors raise on odd pictures, and torch when memory is short.
        except (ValueError, RuntimeError) as error:
            if len(batch) > 1:
                return [text for one in batch for text in self._write_apart([one])]
            return [Unanswered(f"{type(error).__name__}: {error}")]

    @torch.no_grad()
    def _generate(self, batch: list[Turns]) -> list[str]:
        inputs = self.processor.apply_chat_template(
            batch,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # The left side: what is written follows the last token of each row.
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._pad,
        )
        written = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.batch_decode(written, skip_special_tokens=True)
        return texts

    def _turns(self, question: Question) -> Turns:
        pictures = [
            {"type": "image", "image": Pictures.fromarray(image)} for image in question.images
        ]
        return [{"role": "user", "content": [*pictures, self._text(prompt(question))]}]

    def _text(self, text: str) -> dict[str, Any]:
        # A caption that spells "<image>" is words: not a picture, nor the end of a turn.
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return {"type": "text", "text": text}


def _answer(text: str | Unanswered, question: Question) -> BaseModel | Unanswered:
    if isinstance(text, Unanswered):
        return text
    answer = parse(text, question.answer)
    return Unanswered(answer) if isinstance(answer, str) else answer
