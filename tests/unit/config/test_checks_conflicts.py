from typing import Any

import pytest

from gatepass.config.checks import (
    HEADER_SET_TWICE,
    NOT_AZURE,
    ONLY_LISTED,
    RULES_NEVER_USED,
    SETTING_OF_MODEL_LIST,
    UNUSED_UPSTREAM,
    conflicts,
    likely_mistakes,
    placement_of,
)
from gatepass.config.document import ConfigError, dotted
from gatepass.config.load import load
from gatepass.config.model import Config
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement

KEY = {"type": "static", "token": "abc"}


def config(upstream, credential=KEY):
    base = {"base_url": "https://llm.example/v1", "credential": "key", **upstream}
    return Config.model_validate({"credentials": {"key": credential}, "upstreams": {"chat": base}})


def test_the_placement_of_an_upstream_overrides_the_credentials():
    shared: dict[str, Any] = {"headers": {"X-Key": "{token}"}}
    own: dict[str, Any] = {"query": "key"}
    assert placement_of((it := config({})).upstreams["chat"], it) is BEARER_PLACEMENT
    assert placement_of((it := config({}, {**KEY, "token_placement": shared})).upstreams["chat"], it) == TokenPlacement(
        **shared
    )
    assert placement_of(
        (it := config({"token_placement": own}, {**KEY, "token_placement": shared})).upstreams["chat"], it
    ) == TokenPlacement(**own)


def test_static_header_beside_the_token_is_fine():
    assert list(conflicts(config({"headers": {"Ocp-Apim-Subscription-Key": "k", "api-key": "k"}}))) == []
    assert list(conflicts(config({"headers": {"Authorization": "k"}, "token_placement": {"query": "key"}}))) == []
    assert list(conflicts(config({"headers": {"Authorization": "k"}, "credential": None}))) == []


@pytest.mark.parametrize(
    ("header", "token_placement"),
    [("authorization", None), ("X-KEY", {"headers": {"x-key": "{token}"}, "query": "key"})],
)
def test_static_header_of_the_tokens_name_is_refused(header, token_placement):
    found = conflicts(config({"headers": {header: "k"}, "token_placement": token_placement}))
    assert list(found) == [(("upstreams", "chat", "headers", header), HEADER_SET_TWICE.format(header))]


FILE = """
credentials:
  key: {type: static, token: abc, token_placement: {headers: {"a b": "{token}"}}}
upstreams:
  chat:
    base_url: https://llm.example/v1
    credential: key
    token_placement: {query: "a b"}
    headers: {X-Y: "${EMPTY}"}
    rejection: {statuses: [302], codes: ["a b", 1], login_hosts: ["https://sso"], login_page: "no"}
"""
EXPECTED = {
    "credentials.key.token_placement.headers.a b": (
        "expects the name of a header: letters, digits, hyphens and underscores"
    ),
    "upstreams.chat.token_placement.query": "expects the name of a query parameter: letters, digits and . _ ~ -",
    "upstreams.chat.headers.X-Y": "${EMPTY} is empty",
    "upstreams.chat.rejection.statuses[0]": "expects 400 or more",
    "upstreams.chat.rejection.codes[0]": "expects a code as the upstream writes it: letters, digits and . _ : -",
    "upstreams.chat.rejection.login_hosts[0]": "expects the name of a host, or a glob of one: *.sso.corp.example",
    "upstreams.chat.rejection.login_page": "expects true or false; in YAML 1.2 no is a text",
}


def reported(tmp_path, text, **environment):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), environment)
    return {dotted(problem.path): (problem.text, problem.origin) for problem in caught.value.problems}


def test_a_fault_is_described_at_its_line(tmp_path):
    found = reported(tmp_path, FILE, EMPTY="")
    assert {path: text for path, (text, _) in found.items()} == EXPECTED


def test_a_conflict_is_reported_at_the_static_header(tmp_path):
    text = """
credentials: {key: {type: api_key, key: abc}}
upstreams:
  chat:
    base_url: https://llm.example/v1
    credential: key
    headers:
      Api-Key: abc
"""
    [(path, (message, origin))] = reported(tmp_path, text).items()
    assert (path, message) == ("upstreams.chat.headers.Api-Key", HEADER_SET_TWICE.format("Api-Key"))
    assert str(origin).endswith("8")


def test_operation_that_ragflow_does_not_know_is_refused_at_load():
    rag = {"base_url": "http://rag.example:9380", "dialect": "ragflow"}

    def reported(operation):
        given = {"upstreams": {"rag": rag}, "operations": {operation: {"upstream": "rag"}}}
        return [(dotted(path), text) for path, text in conflicts(Config.model_validate(given))]

    assert reported("embeddings") == [("operations.embeddings.upstream", "rag is RAGFlow, which supports only chat")]
    assert reported("chat") == []


def test_what_one_operation_of_a_model_asks_of_ragflow_is_looked_at_too():
    own = {
        "responses": {"upstream": "rag", "name": "2e3b"},
        "embeddings": {"targets": [{"upstream": "chat"}, {"upstream": "rag", "name": "2e3b"}]},
        "chat": {"upstream": "rag", "name": "agent:"},
    }
    message = "rag is RAGFlow, which supports only chat"
    assert ragflow({"a": {"upstream": "chat", "operations": own}}) == {
        "models.a.operations.responses.upstream": message,
        "models.a.operations.embeddings.targets[1].upstream": message,
        "models.a.operations.chat.name": "names no agent: write its id after the colon",
    }


def test_what_could_never_count_beside_the_star_is_refused():
    upstreams = {"chat": {"base_url": "https://a/v1"}, "embed": {"base_url": "https://b/v1"}}
    star = {"upstream": "chat", "operations": {"embeddings": {"rules": {"split": 1}}, "chat": {"stream": "native"}}}

    def reported(route):
        given = {"upstreams": upstreams, "models": {"*": star}, "operations": {"embeddings": route}}
        return {dotted(path): text for path, text in conflicts(Config.model_validate(given))}

    never = "is never used: operations.embeddings.upstream comes before `*`; move the setting there"
    assert reported({"upstream": "embed"}) == {"models.*.operations.embeddings": never}
    assert reported({"rules": {"split": 2}}) == {}


def ragflow(models):
    rag = {"base_url": "http://rag.example:9380", "dialect": "ragflow"}
    given = {"upstreams": {"rag": rag, "chat": {"base_url": "https://llm.example/v1"}}, "models": models}
    return {dotted(path): text for path, text in conflicts(Config.model_validate(given))}


def test_name_that_no_assistant_can_have_is_refused_where_it_stands():
    no_id = "names no agent: write its id after the colon"
    no_kind = "is neither the id of a chat assistant nor agent:ID; did you mean agent:abc?"
    assert ragflow({"a": {"upstream": "rag", "name": "agent:"}}) == {"models.a.name": no_id}
    assert ragflow({"agents:abc": {"upstream": "rag"}}) == {"models.agents:abc": no_kind}
    targets = [{"upstream": "chat", "name": "agents:abc"}, {"upstream": "rag", "name": "agents:abc"}]
    assert ragflow({"a": {"targets": targets}}) == {"models.a.targets[1].name": no_kind}


def test_names_of_assistants_and_of_other_upstreams_are_fine():
    fine = {
        "a": {"upstream": "rag", "name": "agent:7f1d"},
        "b": {"upstream": "rag", "name": "2e3b"},
        "agent:*": {"upstream": "rag"},
        "qwen:7b": {"upstream": "chat"},
    }
    assert ragflow(fine) == {}


@pytest.mark.parametrize(
    "base",
    ["https://r.openai.azure.com", "https://R.OpenAI.azure.com/openai/deployments/d", "https://r.openai.azure.us"],
)
def test_azure_called_as_openai_is_doubted(base):
    assert list(likely_mistakes(config({"base_url": base}))) == [f"upstreams.chat.base_url {NOT_AZURE}"]


@pytest.mark.parametrize(
    "upstream",
    [
        {"base_url": "https://r.openai.azure.com", "dialect": "azure"},
        {"base_url": "https://r.openai.azure.com/openai/v1"},
        {"base_url": "https://x.services.ai.azure.com/models"},
        {"base_url": "https://openai.azure.com.corp.example/v1"},
    ],
)
def test_azure_that_is_called_as_it_requires_is_not_doubted(upstream):
    assert list(likely_mistakes(config(upstream))) == []


def test_doubts_are_warnings_of_a_configuration_that_can_be_used(tmp_path):
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: 'https://r.openai.azure.com'}}")
    assert load(str(file), {}).warnings == (f"upstreams.chat.base_url {NOT_AZURE}",)


def two_upstreams(**blocks):
    urls = {name: {"base_url": f"https://{name}.example/v1"} for name in ("a", "b")}
    return Config.model_validate({"upstreams": urls, **blocks})


@pytest.mark.parametrize(
    "blocks",
    [
        {"operations": {"embeddings": {"upstream": "b"}}},
        {"operations": {"embeddings": {"upstream": "b"}, "chat": {"rules": {"drop": ["user"]}}}},
        {"models": {"m": {"upstream": "b"}, "n": {"targets": [{"upstream": "b"}]}}},
    ],
)
def test_an_upstream_to_which_nothing_leads_is_doubted(blocks):
    assert list(likely_mistakes(two_upstreams(**blocks))) == [UNUSED_UPSTREAM.format(name="a")]


def test_an_upstream_that_only_lists_models_is_doubted_in_words_of_its_own():
    blocks = {"models": {"*": {"upstream": "b"}}, "operations": {"models": {"upstream": "a"}}}
    assert list(likely_mistakes(two_upstreams(**blocks))) == [ONLY_LISTED.format(name="a")]
    assert "only operations.models" in ONLY_LISTED
    assert "no operation" not in ONLY_LISTED


@pytest.mark.parametrize(
    "blocks",
    [
        {"operations": {"embeddings": {"upstream": "b"}, "files": {"upstream": "a"}}},
        {"models": {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}]}}},
        {"models": {"*": {"upstream": "a"}}, "operations": {"embeddings": {"upstream": "b"}}},
        {"models": {"m": {"upstream": "a", "operations": {"responses": {"upstream": "b"}}}}},
    ],
)
def test_an_upstream_to_which_a_model_or_an_operation_leads_is_not_doubted(blocks):
    assert list(likely_mistakes(two_upstreams(**blocks))) == []


def test_a_single_upstream_takes_everything_and_is_not_doubted():
    rules = {"chat": {"rules": {"drop": ["user"]}}}
    given = {"upstreams": {"a": {"base_url": "https://a/v1"}}, "operations": rules}
    assert list(likely_mistakes(Config.model_validate(given))) == []


@pytest.mark.parametrize("operation", ["transcriptions", "translations", "files"])
def test_rules_for_what_passes_as_it_comes_are_refused(operation):
    own = {operation: {"rules": {"drop": ["prompt"]}}}
    blocks: dict[str, Any] = {"upstreams": {"up": {"base_url": "https://llm.example/v1"}}, "operations": own}
    place = ("operations", operation, "rules")
    assert list(conflicts(Config.model_validate(blocks))) == [(place, RULES_NEVER_USED.format(operation))]
    if operation != "files":
        models = {"m": {"upstream": "up", "operations": own}}
        (fault,) = conflicts(Config.model_validate({**blocks, "operations": {}, "models": models}))
        assert fault == (("models", "m", *place), RULES_NEVER_USED.format(operation))


def test_what_could_not_count_for_a_list_of_models_is_refused():
    own = {"models": {"upstream": "up", "model": "m", "timeouts": {"first_byte_s": 1}, "rules": {"drop": ["seed"]}}}
    found = conflicts(
        Config.model_validate({"upstreams": {"up": {"base_url": "https://llm.example/v1"}}, "operations": own})
    )
    assert list(found) == [
        (("operations", "models", name), SETTING_OF_MODEL_LIST) for name in ("rules", "model", "timeouts")
    ]
