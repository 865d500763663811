"""A case: one thing that a client is to do, and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tests.e2e.clients.conversation import PICTURE, QUESTION, ROUNDS, SEEN, TOOL, calls_of, whole
from tests.e2e.clients.other_operations import DRAWN, KEPT
from tests.e2e.clients.upstream import MODELS, PLAIN, RANKS, VECTORS
from tests.integration.strict_azure import SPOKEN, TEXT, TRANSCRIPT, score, vector

Talk = Literal["chat", "tools", "picture", "stray", "rounds", "completions", "responses"]
Other = Literal["models", "embed", "embed_many", "rerank", "hear", "speak", "draw", "moderate", "files"]
Kind = Talk | Other
TALKS: tuple[Talk, ...] = get_args(Talk)
"""What is asked of each of the models, whole and streamed. The others are asked of one model, and whole."""
TEXTS = ["red", "green 蓝", "blue-ish"]
MANY = [f"{'x' * (number % 7)} {number}" for number in range(40)]
QUERY, DOCUMENTS = "Which one is long?", ["short", "a long document", "middle one"]


@dataclass(frozen=True, slots=True)
class Case:
    kind: Kind
    model: str
    streams: bool = False

    def asked(self) -> dict[str, Any]:
        """All that a client is told, beside where gatepass is."""
        return {
            "kind": self.kind,
            "model": self.model,
            "streams": self.streams,
            "question": QUESTION,
            "temperature": 0.2,
            "max_tokens": 500,
            "tool": TOOL,
            "rounds": ROUNDS,
            "picture": f"data:image/png;base64,{PICTURE}",
            "texts": MANY if self.kind == "embed_many" else TEXTS,
            "query": QUERY,
            "documents": DOCUMENTS,
            "file": KEPT.decode("latin-1"),
        }


@dataclass(frozen=True, slots=True)
class Right:
    """What a client must have got; None: nothing of the kind."""

    text: str | None = None
    calls: Sequence[Mapping[str, Any]] | None = None
    finish: str | None = None
    models: Sequence[str] | None = None
    vectors: Sequence[Sequence[float]] | None = None
    ranks: Sequence[Sequence[float]] | None = None


def right(case: Case) -> Right:
    match case.kind:
        case "tools":
            return Right(calls=calls_of(0, 0), finish="tool_calls")
        case "picture" | "stray":
            return Right(text=SEEN, finish="stop")
        case "rounds":
            calls, text = whole()
            return Right(text=text, calls=calls, finish="stop")
        case "chat" | "completions":
            return Right(text=TEXT, finish="stop")
        case "responses":
            return Right(text=TEXT)
        case _:
            return _right_of_others(case)


def _right_of_others(case: Case) -> Right:
    match case.kind:
        case "models":
            return Right(models=sorted(MODELS))
        case "embed" | "embed_many":
            return Right(vectors=[vector(text, 3) for text in case.asked()["texts"]])
        case "rerank":
            ranked = sorted(((score(text), index) for index, text in enumerate(DOCUMENTS)), reverse=True)
            return Right(ranks=[[index, value] for value, index in ranked])
        case "hear":
            return Right(text=TRANSCRIPT)
        case "speak":
            return Right(text=SPOKEN.decode("latin-1"))
        case "draw":
            return Right(text=DRAWN)
        case "moderate":
            return Right(text="flagged")
        case _:
            return Right(text=KEPT.decode("latin-1"))


def cases(*kinds: Kind) -> list[Case]:
    """Those of `kinds`."""
    return [case for kind in kinds for case in _cases(kind)]


def _cases(kind: Kind) -> list[Case]:
    match kind:
        case "embed" | "embed_many":
            return [Case(kind, VECTORS)]
        case "rerank":
            return [Case(kind, RANKS)]
        case "models" | "hear" | "speak" | "draw" | "moderate" | "files":
            return [Case(kind, PLAIN)]
        case _:
            return [Case(kind, model, streams) for streams in (False, True) for model in MODELS]
