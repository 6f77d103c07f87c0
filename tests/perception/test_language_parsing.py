"""Proves that an answer is found in whatever text a model gives, or refused and never guessed.
Needs nothing.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.perception.language import find_object, parse
from tests.perception.faulty_server import Verdict


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "a", "score": 1}',
        '```json\n{"label": "a", "score": 1}\n```',
        'Of {x}, perhaps {"label": "draft", "score": 9}, no: {"label": "a", "score": 1} as {so}.',
        '{ "score": 1, "label": "a", "more": {"nested": "} \\" {"} }',
    ],
)
def test_the_last_object_is_found_wherever_it_stands(text: str) -> None:
    verdict = parse(text, Verdict)
    assert isinstance(verdict, Verdict) and (verdict.label, verdict.score) == ("a", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("The score is {score}.", "no JSON object"),
        ('{"label": "a", "score": 1', "EOF"),
        ('{"label": "a", "score": 1} or rather {"label": "a", "sco', "EOF"),
        ('{"draft": {"label": "a", "score": 1}, "lab', "EOF"),
        ('{"label": "a", "score": 999}', "score: "),
        ('{"score": []}', "label: Field required; score: "),
    ],
)
def test_what_is_no_answer_is_told_and_not_guessed(text: str, problem: str) -> None:
    found = parse(text, Verdict)
    assert isinstance(found, str) and problem in found


@given(st.text('{}[]"\\:,a1 \n', max_size=60))
def test_any_text_is_parsed_without_an_accident(text: str) -> None:
    assert isinstance(parse(text, Verdict), str)
    found = find_object(text)
    assert found is None or (found in text and found.startswith("{"))
