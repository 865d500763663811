"""Embeddings of MiniLM through gatepass find the right paragraph for each question."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.e2e.corpus import QUESTIONS, Question, paragraphs
from tests.e2e.servers import CheckedServer, Gatepass, python_client

EMBED_S = 120.0
DIMENSIONS = 384

Vector = list[float]


def nearness(one: Vector, other: Vector) -> float:
    """Return the cosine. The vectors have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def nearest(question: Vector, texts: Sequence[tuple[str, Vector]]) -> str:
    return max(texts, key=lambda pair: nearness(question, pair[1]))[0]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return paragraphs()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.mark)
def test_exactly_one_paragraph_answers(question: Question, texts: list[str]):
    assert sum(question.mark in text for text in texts) == 1


def test_ten_questions_find_their_paragraphs(embed_server: CheckedServer, gatepass: Gatepass, texts: list[str]):
    before = embed_server.tally()
    questions = [question.text for question in QUESTIONS]
    vectors = python_client(gatepass, "embed", timeout_s=EMBED_S, stdin=texts + questions)["vectors"]
    after = embed_server.tally()

    assert len(texts) >= 200
    assert {len(vector) for vector in vectors} == {DIMENSIONS}
    assert all(nearness(vector, vector) == pytest.approx(1, abs=1e-3) for vector in vectors)
    assert after.refusals == before.refusals
    library = list(zip(texts, vectors, strict=False))
    found = {
        question.text: nearest(vector, library)
        for question, vector in zip(QUESTIONS, vectors[len(texts) :], strict=True)
    }
    wrong = {question.text: found[question.text] for question in QUESTIONS if question.mark not in found[question.text]}
    assert wrong == {}
    print(f"\n{len(texts)} paragraphs, {len(QUESTIONS)} questions, all answered by the right one")
