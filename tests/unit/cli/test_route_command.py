import json
from functools import partial
from typing import get_args

import pytest

from gatepass.cli.options import CALL_OPERATIONS, OPERATION_OF_KIND, ROUTED_OPERATIONS, operation_by_name
from gatepass.config.routes import ModelKind, OfModel
from tests.unit.cli.command_line import FILE, run_on


@pytest.fixture
def route(tmp_path):
    return partial(run_on, tmp_path / "f.yaml", "route")


def test_route_supports_every_operation_with_a_model_and_every_kind():
    assert get_args(OfModel) == ROUTED_OPERATIONS
    assert set(OPERATION_OF_KIND) == {None, *get_args(ModelKind)}
    assert set(CALL_OPERATIONS) < set(ROUTED_OPERATIONS) >= set(OPERATION_OF_KIND.values())


def test_route_shows_targets_and_changes_in_order(route):
    result = route("gpt-4o")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "chat with the model gpt-4o, as any caller",
        "1. to the upstream chat, as gpt-4o-240806-deploy-gs:",
        "   - profile plain: nothing",
        "   - built-in images: `images` next to the conversation are moved into it",
        "   - built-in strays: drop_params and model_type are left out",
        "   - built-in stream_options: left out if no stream is requested",
        "   - built-in model: gpt-4o becomes gpt-4o-240806-deploy-gs",
        "   - stream: auto, as the client requests, until a learned rule changes it",
        "   - learning: on",
        "   - dialect openai: nothing",
        "   - POST https://llm.example/v1/chat/completions, with no credential",
        "2. to the upstream spare, as gpt-4o:",
        "   - profile plain: nothing",
        "   - built-in images: `images` next to the conversation are moved into it",
        "   - built-in strays: drop_params and model_type are left out",
        "   - built-in stream_options: left out if no stream is requested",
        "   - stream: auto, as the client requests, until a learned rule changes it",
        "   - learning: on",
        "   - dialect openai: nothing",
        "   - POST https://spare.example/v1/chat/completions, with no credential",
    ]


SHARED = """\
upstreams: {east: {base_url: 'https://east.example/v1'}, west: {base_url: 'https://west.example/v1'}}
models:
  m:
    targets: [{upstream: east, weight: 3}, {upstream: west}, {upstream: west, name: spare, weight: 0}]
    policy: weighted
    retry: {on: [refused, may_have_run], operations: [rerank, embeddings]}
    breaker: {ejection_s: 10, probe: models}
    context_fallback: long
  session: {targets: [{upstream: east}, {upstream: west}], affinity: header X-Session}
  long: {upstream: west}
"""


def test_route_shows_how_targets_are_chosen_and_what_is_repeated(route):
    def traffic(*arguments):
        return [line for line in route(*arguments, text=SHARED).output.splitlines()[1:] if line[:1].isalpha()]

    assert traffic("m", "--operation", "responses") == [
        "policy: weighted, weights: east/m 3, west/m 1, west/spare 0 (spare)",
        "affinity: caller (the default of responses)",
        "retry: refused and may_have_run for embeddings, rerank, at most 3 attempts",
        (
            "breaker: 5 failures in a row or 50 % of at least 20 in 10 s eject a target for 10 s to 300 s,"
            " then GET /models"
        ),
        "wait: a target that answers 429 is passed over for its wait, at most 60 s",
        "context_fallback: long",
    ]
    assert not any("affinity" in line for line in traffic("m"))
    assert traffic("session") == [
        "policy: order, weights: east/session 1, west/session 1",
        "affinity: header x-session",
    ]
    assert traffic("long") == json.loads(route("long", "--json", text=SHARED).stdout)["traffic"] == []


def test_route_depends_on_the_caller_and_the_operation(route):
    result = route("gpt-4o", "--operation", "embeddings", "--key", "bot")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "embeddings with the model gpt-4o, as bot"


def test_route_that_is_refused_exits_with_1(route):
    rag = "{base_url: 'http://rag.example:9380', dialect: ragflow}"
    text = f"upstreams: {{rag: {rag}}}\nmodels: {{bot: {{upstream: rag, name: 2e3b}}}}\n"
    result = route("bot", "--operation", "embeddings", text=text)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("   - refused: 404 model_not_found: ")


def test_a_model_that_goes_nowhere_is_exit_1(route):
    result = route("gpt-9")
    assert result.exit_code == 1
    assert result.output.startswith("refused: 404 model_not_found: ")


def test_a_caller_that_may_not_use_the_model_is_exit_1(route):
    result = route("gpt-4o", "--key", "rag")
    assert result.exit_code == 1
    assert result.output.startswith("refused: 403 model_not_allowed: ")


SPEAKING = """\
upstreams: {a: {base_url: 'https://llm.example/v1'}}
models: {m: {upstream: a, capabilities: {kind: tts}}, ears: {upstream: a, name: whisper, capabilities: {kind: asr}}}
"""


def test_route_of_a_speech_model_uses_its_operation(route):
    ears = route("ears", text=SPEAKING)
    assert (ears.exit_code, ears.output.splitlines()) == (
        0,
        [
            "transcriptions with the model ears, as any caller",
            "1. to the upstream a, as whisper:",
            "   - the form passes through unchanged: no profile, no rules, no learning",
            "   - built-in model: ears becomes whisper",
            "   - dialect openai: nothing",
            "   - POST https://llm.example/v1/audio/transcriptions, with no credential",
        ],
    )
    mouth = route("m", text=SPEAKING)
    assert mouth.output.splitlines()[0] == "speech with the model m, as any caller"


def test_changes_of_the_callers_profile_are_shown_in_order(route):
    result = route("gpt-4o", "--key", "bot", text=FILE.replace("name: bot,", "name: bot, profile: librechat,"))
    assert result.output.splitlines()[2] == (
        "   - profile librechat: drop=tools[].strict (if null), drop=tools[].function.strict (if null)"
    )


def test_a_name_with_the_type_that_the_model_list_adds_is_the_model(route):
    text = FILE.replace("name: bot,", "name: bot, profile: ragflow,")
    result = route("gpt-4o___embedding", "--key", "bot", text=text)
    assert result.output.splitlines()[:2] == [
        "chat with the model gpt-4o, as bot",
        "1. to the upstream chat, as gpt-4o-240806-deploy-gs:",
    ]
    assert route("gpt-4o___embedding", text=text).exit_code == 1


def test_json_has_the_steps_of_each_target(route):
    result = route("gpt-4o", "--json", "--key", "bot")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["operation"], document["caller"]) == (0, "chat", "bot")
    assert [(target["upstream"], target["model"]) for target in document["targets"]] == [
        ("chat", "gpt-4o-240806-deploy-gs"),
        ("spare", "gpt-4o"),
    ]
    assert document["targets"][0]["steps"][-1].startswith("POST https://llm.example/v1/chat/completions")
    assert json.loads(route("gpt-9", "--json").stdout)["refused"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        ("gpt-4o", "chat"),
        ("bge-m3", "embeddings"),
        ("multilingual-e5-large", "embeddings"),
        ("bge-reranker-v2", "rerank"),
        ("whisper-1", "transcriptions"),
    ],
)
def test_a_model_without_a_declared_kind_has_the_operation_of_its_name(model, operation):
    assert operation_by_name(model) == operation
