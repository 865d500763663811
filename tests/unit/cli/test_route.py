import json
from typing import get_args

import pytest
from msgspec.structs import replace

from gatepass.cli.route import DIALECT_CHANGES, FORM, report_targets, target_lines
from gatepass.config.model import Config
from gatepass.config.upstream import DialectName
from gatepass.normalize.rules import BUILT_IN_RULES
from gatepass.operations.table import sample
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.attempt import rules_for
from gatepass.types import Target

URL = "https://llm.example/v1"
DEPLOYED = "https://r.openai.azure.com/openai/deployments/prod-4o/chat/completions"
HOSTS = {"openai": URL, "azure": "https://r.openai.azure.com", "ragflow": "http://rag.example:9380"}


def steps(operation="chat", upstream=None, model=None, **blocks):
    """The steps at the one target of the model `m`, whose own entry is `model`."""
    upstream = {"base_url": HOSTS[(upstream or {}).get("dialect", "openai")], **(upstream or {})}
    models = {} if model is None else {"models": {"m": {"upstream": "up", **model}}}
    config = Config.model_validate({"upstreams": {"up": upstream}, **models, **blocks})
    (found,) = report_targets(config, operation, "m", None)
    return [line.removeprefix("   - ") for line in list(target_lines([found]))[1:]], found.refused is None


def reported(*arguments, **blocks):
    return steps(*arguments, **blocks)[0]


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings", "responses", "speech"])
def test_a_built_in_rule_that_is_not_shown_changes_no_sample(operation):
    """The sample with all the members that the rules look for."""
    shown = "\n".join(reported(operation))
    call = sample(operation, "m")
    members = json.loads(call.body) | {"images": [], "drop_params": True, "stream_options": {}}
    asked = replace(call, body=json.dumps(members | {"encoding_format": "base64"}).encode())
    for rule in BUILT_IN_RULES:
        changed = rule.apply(asked, Target("up")) is not asked
        assert changed <= (f"built-in {rule.name}:" in shown), rule.name


def test_declared_rules_of_the_model_are_listed_with_their_entries():
    rules = {"drop": ["temperature"], "rename": {"max_tokens": "max_completion_tokens"}, "set": {"top_p": 1}}
    found = reported(model={"rules": rules, "stream": "emulate"})
    assert found[4:6] == [
        "stream: emulate, gatepass requests a whole reply",
        "rules of models.m: rename=max_tokens>max_completion_tokens, drop=temperature, set=top_p",
    ]


def test_rules_are_listed_with_all_their_blocks_and_an_unused_upstream():
    operations = {"embeddings": {"upstream": "up", "rules": {"split": 10}}}
    assert "rules of operations.embeddings: split=10" in reported("embeddings", operations=operations)
    passed_over = "operations.embeddings.upstream: not used, because models.m has a route"
    found = reported("embeddings", model={}, operations=operations)
    assert "rules of operations.embeddings: split=10" in found
    assert passed_over in found
    own = {"rules": {"drop": ["seed"]}}
    both = reported("embeddings", model=own, operations=operations)
    assert "rules of models.m and operations.embeddings: drop=seed, split=10" in both
    without = {"embeddings": {"rules": {"split": 10}}}
    assert passed_over not in reported("embeddings", model={}, operations=without)


def test_clamps_are_reported_with_their_effective_bounds():
    clamp = {"max_tokens": {"max": 100}, "temperature": {"min": 0.1, "max": 1.5}}
    rules = {"rename": {"max_tokens": "max_completion_tokens"}, "drop": ["metadata"]}
    operations = {"chat": {"rules": {"clamp": clamp, "set": {"metadata": "x"}}}}
    assert (
        "rules of models.m and operations.chat: rename=max_tokens>max_completion_tokens, drop=metadata,"
        " clamp=max_completion_tokens (at most 100), clamp=temperature (at least 0.1, at most 1.5)"
    ) in reported(model={"rules": rules}, operations=operations)


def test_route_shows_the_rule_against_token_ids():
    assert "rules of models.m: token ids are rejected (capabilities.token_ids)" in reported(
        "embeddings", model={"capabilities": {"token_ids": False}}
    )


def test_operation_has_its_built_in_rules():
    def named(operation):
        return [step.split(":")[0].split()[1] for step in reported(operation) if step.startswith("built-in")]

    assert named("chat") == ["images", "strays", "stream_options"]
    assert named("completions") == ["images", "strays", "stream_options"]
    assert named("embeddings") == ["strays", "vectors"]
    assert named("rerank") == ["strays"]


def test_every_url_of_an_operation_is_reported_with_what_becomes_of_a_form():
    found = reported("images", model={"name": "deployed", "rules": {"drop": ["user"]}})
    assert found == [
        "profile plain: nothing",
        "built-in strays: drop_params and model_type are left out",
        "built-in model: m becomes deployed",
        "rules of models.m: drop=user",
        "learning: on",
        "dialect openai: nothing",
        f"POST {URL}/images/generations, with no credential",
        f"POST {URL}/images/edits, with no credential; {FORM}",
        f"POST {URL}/images/variations, with no credential; {FORM}",
    ]


def test_responses_have_a_stream_mode_and_the_url_of_compactions():
    found = reported("responses", model={"stream": "emulate"})
    assert "stream: emulate, gatepass requests a whole reply" in found
    assert [step for step in found if step.startswith("POST")] == [
        f"POST {URL}/responses, with no credential",
        f"POST {URL}/responses/compact, with no credential",
    ]


def test_a_form_to_an_upstream_that_takes_none_is_refused():
    found, fine = steps("transcriptions", upstream={"dialect": "ragflow"}, model={"name": "2e3b"})
    assert (fine, found[-1].startswith("refused: 404 model_not_found: ")) == (False, True)


def test_route_of_a_form_names_the_deployment_in_its_path():
    azure = {"dialect": "azure", "azure": {"api_version": "2024-10-21"}}
    found = reported("transcriptions", upstream=azure, model={"name": "prod-4o"})
    assert found[-1].startswith(f"POST {DEPLOYED.replace('chat/completions', 'audio/transcriptions')}?")


def test_route_shows_the_rerank_shape():
    found = reported("rerank", upstream={"rerank_shape": "tei"})
    assert found[1] == "rerank_shape: tei"
    assert found[-1] == f"POST {URL}/rerank, with no credential"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "learning: on"),
        ({"learn": "on", "learn_also": ["tools", "stop"]}, "learning: on, also tools, stop"),
        ({"learn": "off", "learn_also": ["tools"]}, "learning: off"),
    ],
)
def test_learning_settings_are_reported(settings, line):
    assert line in reported(upstream=settings)


@pytest.mark.parametrize(
    ("settings", "name", "lines"),
    [
        (
            {"dialect": "azure", "azure": {"api_version": "2024-10-21"}},
            "prod-4o",
            [
                "dialect azure: the URL",
                f"POST {DEPLOYED}?api-version=2024-10-21, with no credential",
            ],
        ),
        (
            {"dialect": "ragflow"},
            "2e3b",
            [
                "dialect ragflow: the URL, the body (model, stream, texts, images) and the reply",
                "POST http://rag.example:9380/api/v1/openai/2e3b/chat/completions, with no credential",
            ],
        ),
    ],
)
def test_the_url_is_the_one_that_is_called(settings, name, lines):
    assert reported(upstream=settings, model={"name": name})[-2:] == lines


def test_the_steps_are_reported_in_the_order_in_which_a_request_takes_them():
    places = {"profile": "profile ", "rerank": "rerank_shape", "rules": "rules of models.m"}
    blocks = {
        "upstreams": {"up": {"base_url": URL, "rerank_shape": "tei"}},
        "models": {"m": {"upstream": "up", "name": "deployed", "rules": {"drop": ["user"]}}},
        "profiles": {"mine": {"drop": ["top_n"]}},
    }
    config = Config.model_validate(blocks)
    state = create_app_state(config)
    call, (target,) = sample("rerank", "m"), state.routes.resolve("rerank", "m")
    rules = rules_for(state, state.upstreams["up"], call, target, state.profiles["mine"])
    begins = [places.get(rule.name, f"built-in {rule.name}") for rule in rules]
    lines = [line.removeprefix("   - ") for line in list(target_lines(report_targets(config, "rerank", "m", None)))[1:]]
    of_rules = [begin for line in lines for begin in begins if line.startswith(begin)]
    assert of_rules == [begin for begin in begins if begin in of_rules]
    assert set(begins) - set(of_rules) == {f"built-in {name}" for name in ("images", "stream_options", "vectors")}
    rest = lines[len(of_rules) :]
    assert [line.split()[0] for line in rest] == ["learning:", "dialect", "POST"]


def test_the_credential_is_named():
    credentials = {"corp": {"type": "static", "token": "k-static-4711"}}
    found = reported(upstream={"credential": "corp"}, credentials=credentials)
    assert found[-1] == f"POST {URL}/chat/completions, with the credential corp"


def test_a_target_that_has_no_such_request_states_why_and_is_not_fine():
    found, fine = steps("embeddings", upstream={"dialect": "ragflow"}, model={"name": "2e3b"})
    assert not fine
    assert found[-1].startswith("refused: 404 model_not_found: ")
    assert steps(upstream={"dialect": "ragflow"}, model={"name": "2e3b"})[1]


def test_each_dialect_states_what_it_changes():
    assert set(DIALECT_CHANGES) == set(get_args(DialectName))


def test_a_chat_that_serves_another_protocol_is_the_request_that_is_shown():
    found, fine = steps("responses", upstream={"protocols": ["chat"]})
    assert fine
    assert found[-3:] == [
        "POST /responses: a chat serves it, because `protocols` has no responses",
        f"POST {URL}/chat/completions, with no credential",
        "POST /responses/compact: 404, because `protocols` has chat alone",
    ]
