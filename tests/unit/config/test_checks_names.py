import pytest

from gatepass.config.checks import NO_ROUTE, subject_circles, unknown_names, unreachable_settings
from gatepass.config.references import Reference


def test_names_that_stand_for_something_are_fine():
    tree = {
        "credentials": {"corp": {}},
        "upstreams": {"chat": {"credential": "corp"}, "open": {"credential": None}},
        "operations": {"chat": {"upstream": "chat"}},
        "models": {"a": {"upstream": "chat"}, "b": {"targets": [{"upstream": "open"}]}},
    }
    assert list(unknown_names(tree)) == []


def test_unknown_names_are_reported_with_the_nearest_one():
    tree = {
        "credentials": ["corp"],
        "upstreams": {"chat": {"credential": "corp"}},
        "operations": {"chat": {"upstream": "chatt"}},
        "models": {"a": {"upstream": "xyz"}, "b": {"targets": [{"upstream": "chat"}, {"upstream": "cha"}]}},
    }
    assert list(unknown_names(tree)) == [
        (("upstreams", "chat", "credential"), "'corp' is not a name under credentials"),
        (("operations", "chat", "upstream"), "'chatt' is not a name under upstreams; did you mean chat?"),
        (("models", "a", "upstream"), "'xyz' is not a name under upstreams; there is chat"),
        (("models", "b", "targets", 1, "upstream"), "'cha' is not a name under upstreams; did you mean chat?"),
    ]


def test_a_name_by_reference_is_not_quoted():
    tree = {"upstreams": {"chat": {"credential": Reference.to_variable("WHICH", "topsecret")}}}
    assert list(unknown_names(tree)) == [
        (("upstreams", "chat", "credential"), "${WHICH} is not a name under credentials")
    ]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://llm.example/v1/chat/completions", "/chat/completions"),
        ("https://llm.example/V1/Chat/Completions/", "/chat/completions"),
        ("https://llm.example/v1/completions", "/completions"),
        ("https://llm.example/v1/rerank", "/rerank"),
        ("https://llm.example/v1/audio/speech", "/audio/speech"),
        ("https://embed.example/embeddings", "/embeddings"),
        ("https://llm.example/v1/models//", "/models"),
    ],
)
def test_a_base_url_that_ends_in_an_operations_path_is_reported(url, path):
    assert list(unreachable_settings({"upstreams": {"chat": {"base_url": url}}})) == [
        (
            ("upstreams", "chat", "base_url"),
            f"ends in {path}, which gatepass appends itself: end it before that, most often with /v1",
        )
    ]


@pytest.mark.parametrize(
    "url",
    [
        *("https://llm.example/v1", "https://llm.example", "https://x.services.ai.azure.com/models"),
        *("https://llm.example/chat/completions/v1", "https://embeddings/", "https://llm.example/my-embeddings"),
        *(5, None),
    ],
)
def test_other_base_urls_are_left_alone(url):
    assert list(unreachable_settings({"upstreams": {"chat": {"base_url": url}}})) == []


TWO = {"chat": {"base_url": "https://a/v1"}, "spare": {"base_url": "https://b/v1"}}


@pytest.mark.parametrize(
    "more", [{}, {"models": {}, "operations": None}, {"operations": {"models": {"upstream": "chat"}}}]
)
def test_several_upstreams_without_a_route_are_reported(more):
    assert list(unreachable_settings({"upstreams": TWO, **more})) == [(("upstreams",), NO_ROUTE.format(first="chat"))]


@pytest.mark.parametrize(
    "tree",
    [
        *({}, {"upstreams": []}, {"upstreams": {"chat": TWO["chat"]}}),
        {"upstreams": TWO, "models": {"m": {"upstream": "spare"}}},
        {"upstreams": TWO, "operations": {"chat": {"upstream": "chat"}}},
        {"upstreams": TWO, "operations": {"embeddings": {"upstream": "chat"}}},
    ],
)
def test_a_model_with_a_route_is_not_reported(tree):
    assert list(unreachable_settings(tree)) == []


def test_a_model_for_long_requests_without_a_route_is_reported():
    fault = (("models", "m", "context_fallback"), "'long' is not a name under models; there is m")
    assert list(unknown_names({"models": {"m": {"context_fallback": "long"}}})) == [fault]
    assert list(unknown_names({"models": {"m": {"context_fallback": "long"}, "lo*": {}}})) == []


def test_operation_without_an_upstream_is_no_route():
    rules = {"operations": {"chat": {"rules": {"drop": ["user"]}}}}
    assert list(unreachable_settings({"upstreams": TWO, **rules})) == [(("upstreams",), NO_ROUTE.format(first="chat"))]


def test_a_subject_is_a_known_credential():
    tree = {"credentials": {"llm": {"subject_credential": "crop"}, "corp": {}}}
    text = "'crop' is not a name under credentials; did you mean corp?"
    assert list(unknown_names(tree)) == [(("credentials", "llm", "subject_credential"), text)]


def test_subjects_that_lead_back_to_themselves_are_reported():
    subjects = {"a": "b", "b": "a", "c": "a", "d": "d", "e": "f", "f": None}
    tree = {"credentials": {name: {"subject_credential": subject} for name, subject in subjects.items()}}
    text = "is a circle ({}): one of them needs another grant"
    assert list(subject_circles(tree)) == [
        (("credentials", "a", "subject_credential"), text.format("a → b → a")),
        (("credentials", "b", "subject_credential"), text.format("b → a → b")),
        (("credentials", "d", "subject_credential"), text.format("d → d")),
    ]
