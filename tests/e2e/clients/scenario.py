"""A scenario: one task for a client, and its expected result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tests.e2e.clients.conversation import PICTURE, PICTURE_ANSWER, QUESTION, ROUNDS, TOOL, calls_of, full_conversation
from tests.e2e.clients.other_operations import FILE_CONTENT, IMAGE
from tests.e2e.clients.upstream import ACCEPTS_ALL, MODELS, RANKS, VECTORS
from tests.integration.strict_azure import SPOKEN, TEXT, TRANSCRIPT, score, vector

GenerationKind = Literal["chat", "tools", "picture", "extra_parameter", "rounds", "completions", "responses"]
OtherKind = Literal[
    "models", "embed", "embed_many", "rerank", "transcribe", "synthesize_speech", "generate_image", "moderate", "files"
]
Kind = GenerationKind | OtherKind
GENERATION_KINDS: tuple[GenerationKind, ...] = get_args(GenerationKind)
"""Every model gets these, as a whole reply and as a stream. The other kinds use one model and whole replies."""
TEXTS = ["red", "green 蓝", "blue-ish"]
MANY = [f"{'x' * (number % 7)} {number}" for number in range(40)]
QUERY, DOCUMENTS = "Which one is long?", ["short", "a long document", "middle one"]


@dataclass(frozen=True, slots=True)
class Scenario:
    kind: Kind
    model: str
    streams: bool = False

    def inputs(self) -> dict[str, Any]:
        """Return the input of the runner."""
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
            "file": FILE_CONTENT.decode("latin-1"),
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected result. None: the client must not return this field."""

    text: str | None = None
    calls: Sequence[Mapping[str, Any]] | None = None
    finish: str | None = None
    models: Sequence[str] | None = None
    vectors: Sequence[Sequence[float]] | None = None
    ranks: Sequence[Sequence[float]] | None = None


def expected(scenario: Scenario) -> Expected:
    match scenario.kind:
        case "tools":
            return Expected(calls=calls_of(0, 0), finish="tool_calls")
        case "picture" | "extra_parameter":
            return Expected(text=PICTURE_ANSWER, finish="stop")
        case "rounds":
            calls, text = full_conversation()
            return Expected(text=text, calls=calls, finish="stop")
        case "chat" | "completions":
            return Expected(text=TEXT, finish="stop")
        case "responses":
            return Expected(text=TEXT)
        case _:
            return _expected_of_other(scenario)


def _expected_of_other(scenario: Scenario) -> Expected:
    match scenario.kind:
        case "models":
            return Expected(models=sorted(MODELS))
        case "embed" | "embed_many":
            return Expected(vectors=[vector(text, 3) for text in scenario.inputs()["texts"]])
        case "rerank":
            ranked = sorted(((score(text), index) for index, text in enumerate(DOCUMENTS)), reverse=True)
            return Expected(ranks=[[index, value] for value, index in ranked])
        case "transcribe":
            return Expected(text=TRANSCRIPT)
        case "synthesize_speech":
            return Expected(text=SPOKEN.decode("latin-1"))
        case "generate_image":
            return Expected(text=IMAGE)
        case "moderate":
            return Expected(text="flagged")
        case _:
            return Expected(text=FILE_CONTENT.decode("latin-1"))


def scenarios(*kinds: Kind) -> list[Scenario]:
    """Return the scenarios of `kinds`."""
    return [scenario for kind in kinds for scenario in _scenarios(kind)]


def _scenarios(kind: Kind) -> list[Scenario]:
    match kind:
        case "embed" | "embed_many":
            return [Scenario(kind, VECTORS)]
        case "rerank":
            return [Scenario(kind, RANKS)]
        case "models" | "transcribe" | "synthesize_speech" | "generate_image" | "moderate" | "files":
            return [Scenario(kind, ACCEPTS_ALL)]
        case _:
            return [Scenario(kind, model, streams) for streams in (False, True) for model in MODELS]
