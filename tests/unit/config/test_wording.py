from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from gatepass.config.credential.kinds import KINDS
from gatepass.config.document import dotted, with_value
from gatepass.config.model import Config
from gatepass.config.references import Reference
from gatepass.config.upstream import CODE
from gatepass.config.wording import PATTERNS, all_settings, did_you_mean, explained_errors, pattern_of, unknown_setting

BASE = {"upstreams": {"u": {"base_url": "https://x"}}}
OAUTH = {"type": "oauth2", "token_url": "https://x", "client_id": "a", "client_secret": "b"}
SECRET = Reference.to_variable("S", "topsecret")


def errors_with(path, value):
    tree = with_value(BASE, path, value)
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(tree)
    return {dotted(place): text for place, text in explained_errors(caught.value, tree)}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("server", "port"), "8080", "expects a whole number, not a text"),
        (("server", "port"), "http", "expects a whole number, not a text"),
        (("server", "port"), "+80", "expects a whole number, not a text"),
        (("server", "port"), True, "expects a whole number, not true or false"),
        (("server", "port"), [80], "expects a whole number, not a list"),
        (("server", "port"), None, "is empty: set it, or remove the line"),
        (("server", "port"), 1.5, "expects a whole number, not a number with a point or an exponent"),
        (("limits", "body_bytes"), "32M", "expects a whole number of bytes, not a text"),
        (("server", "port"), 70000, "expects 65535 or less"),
        (("server", "port"), -1, "expects 0 or more"),
        (("limits", "receive_s"), "20", "expects a number of seconds, not a text"),
        (("limits", "receive_s"), "2.5", "expects a number of seconds, not a text"),
        (("limits", "receive_s"), "5m", "expects a number of seconds, not a text"),
        (("limits", "receive_s"), {"a": 1}, "expects a number of seconds, not a block"),
        (("limits", "receive_s"), 0, "expects more than 0"),
        (("limits", "receive_s"), float("nan"), "expects a finite number"),
        (("server", "watch"), "yes", "expects true or false, not a text"),
        (("server", "watch"), "Off", "expects true or false, not a text"),
        (("server", "watch"), "true", "expects true or false, not a text"),
        (("server", "watch"), "topsecret", "expects true or false, not a text"),
        (("server", "watch"), 1, "expects true or false, not a number"),
        (("server", "host"), 12, "expects a text, not a number"),
        (("server", "host"), True, "expects a text, not true or false"),
        (("server", "host"), ["h"], "expects a text, not a list"),
        (("server", "base_path"), "llm", "expects segments that begin with a slash, none at the end: /llm"),
        (("access", "keys"), {}, "expects a list, not a block"),
        (("access", "keys"), "k", "expects a list, not a text"),
        (("access", "keys"), None, "is empty: set it, or remove the line"),
        (("server",), None, "is empty: set it, or remove the line"),
        (("server",), "x", "expects a block of settings, not a text"),
        (("models",), [], "expects a block of names, not a list"),
        (("models", "a"), "u", "expects a block of settings, not a text: write {upstream: u}"),
        (("models", "a"), "topsecret", "expects a block of settings, not a text: write {upstream: NAME}"),
        (
            ("models", "a"),
            SECRET,
            "expects a block of settings, but a reference is always a text: write the value itself",
        ),
        (("operations", "chat"), "u", "expects a block of settings, not a text: write {upstream: u}"),
        (("upstreams",), {}, "is empty: at least one is needed"),
        (("upstreams", "u", "base_url"), "x", "expects http://host… or https://host…"),
        (("log", "format"), "jsn", "'jsn' is not known here; did you mean json?"),
        (("log", "format"), 5, "expects json or text, not a number"),
        (("log", "level"), None, "is empty: set it, or remove the line"),
        (("log", "nothing"), 5, "is not a setting; known here: format, level"),
        (("credentials", "c"), {"type": "oauth"}, None),
        (
            ("server", "port"),
            SECRET,
            "expects a whole number, but a reference is always a text: write the value itself",
        ),
        (("log", "format"), SECRET, "expects json or text"),
    ],
)
def test_each_problem_is_a_sentence_at_its_path(path, value, expected):
    found = errors_with(path, value)
    if expected is not None:
        assert found == {".".join(path): expected}
    assert "topsecret" not in str(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("server", "port"), "8080"), (("server", "watch"), "yes"), (("server", "watch"), "true"), (("server",), "x")],
)
def test_the_type_of_a_referenced_value_is_not_revealed(path, value):
    ((_, reported),) = errors_with(path, Reference.to_variable("S", value)).items()
    ((_, other),) = errors_with(path, SECRET).items()
    assert reported == other
    assert reported.endswith(", but a reference is always a text: write the value itself")


def test_an_invalid_name_is_reported_at_the_name():
    (reported,) = errors_with(("upstreams", "bad name"), {"base_url": "https://x"}).items()
    assert reported[0] == "upstreams.bad name"
    assert reported[1].startswith("a name is 1 to 63 letters")
    assert errors_with(("operations", "chats"), {"upstream": "u"}) == {
        "operations.chats": "'chats' is not known here; did you mean chat?"
    }


def test_only_the_member_that_the_type_names_is_reported():
    tree = {**OAUTH, "client_id": 5, "url": "https://x"}
    assert errors_with(("credentials", "c"), tree) == {
        "credentials.c.client_id": "expects a text, not a number",
        "credentials.c.url": "belongs to type http_json, not to oauth2; did you mean token_url?",
    }


@pytest.mark.parametrize(
    ("credential", "expected"),
    [
        ({}, {"credentials.c.type": f"is missing: {', '.join(KINDS)}"}),
        ({"type": "statik"}, {"credentials.c.type": "'statik' is not known here; did you mean static?"}),
        ({"type": SECRET}, {"credentials.c.type": f"expects {' or '.join(KINDS)}"}),
        ({"type": "static"}, {"credentials.c.token": "is missing"}),
        (None, {"credentials.c": "is empty: set it, or remove the line"}),
        (5, {"credentials.c": "expects a block of settings, not a number"}),
    ],
)
def test_a_credential_without_a_usable_type_is_reported(credential, expected):
    assert errors_with(("credentials", "c"), credential) == expected


def test_patterns_of_hashes_and_headers_are_described():
    assert errors_with(("access", "keys"), [{"name": "a", "hash": "x"}]) == {
        "access.keys[0].hash": "expects sha256: and 64 hexadecimal digits in lower case,"
        " as `gatepass keys new` prints them"
    }
    assert errors_with(("upstreams", "u", "forward_headers"), ["a b"]) == {
        "upstreams.u.forward_headers[0]": "expects the name of a header: letters, digits and hyphens"
    }


def patterns(schema: Any) -> Iterator[str]:
    """Every pattern of the model, as its JSON schema has them: of values and of names."""
    for name, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if name == "pattern" and isinstance(part, str):
            yield part
        if name == "patternProperties":
            yield from part
        if isinstance(part, dict | list):
            yield from patterns(part)


def test_every_pattern_of_the_settings_has_a_message():
    in_schema = set(patterns(Config.model_json_schema()))
    assert in_schema - set(PATTERNS) == set()
    assert set(PATTERNS) - in_schema == {CODE}, "a code may be a number too, and has a schema of its own"


ORIGIN = (
    "expects an origin as browsers send it: https://chat.corp.example, in lower case, with a scheme, without"
    " underscores, a path or a slash at the end; or *"
)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://chat.corp.example/",
            "HTTPS://Chat.corp.example:8443",
            "chat.corp.example",
            "https://my_chat.example",
        ),
        *("http://localhost:3000/app?token=topsecret", "https://me:topsecret@chat.example", "https://", "", SECRET),
    ],
)
def test_an_invalid_origin_is_reported_with_the_valid_form(origin):
    found = errors_with(("profiles", "lobechat"), {"cors_origins": [origin]})
    assert found == {"profiles.lobechat.cors_origins[0]": ORIGIN}


def test_every_setting_is_known_by_its_pattern():
    known = all_settings()
    assert known["credentials", "*", "json"] == {"http_json"}
    assert known["credentials", "*", "timeout_s"] == set(KINDS)
    assert known["models", "*", "targets", "*", "upstream"] == set()


def test_names_of_the_users_choice_become_stars():
    known = all_settings()
    assert pattern_of(("upstreams", "chat", "network", "ca"), known) == ("upstreams", "*", "network", "ca")
    assert pattern_of(("access", "keys", 3, "x"), known) == ("access", "keys", "*", "x")
    assert pattern_of(("nothing", "like"), known) == ("nothing", "like")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    tree = {"credentials": {"c": {"type": "http_json"}, "d": {}}}

    def reported(*path):
        return unknown_setting(path, tree)

    assert reported("server", "prot") == "is not a setting; did you mean port?"
    assert reported("credentials", "c", "client_auth") == "belongs to type oauth2, not to http_json"
    assert reported("credentials", "c", "methode") == "is not a setting; did you mean method?"
    shared = "timeout_s, default_ttl_s, max_ttl_s, network, allow_plain_http, token_placement, type"
    own = "url, method, headers, query, json, form, basic, reply"
    begin, _, names = reported("credentials", "c", "tocken_ur").partition(": ")
    assert begin == "is not a setting; known here"
    assert sorted(names.split(", ")) == sorted(f"{shared}, {own}".split(", "))
    for name in ("ca_file", "proxy", "client_cert"):
        assert reported(name) == f"is not a setting here; did you mean network.{name}?"
    places = " or ".join(f"{block}.NAME.timeouts" for block in ("upstreams", "operations", "models", "mcp"))
    assert reported("timeouts") == f"is not a setting here; did you mean {places}?"
    assert reported("drain_timeout_s") == "is not a setting here; did you mean server.drain_timeout_s?"
    for name in ("refresh_before", "refresh_behind"):
        assert "refresh_token?" not in reported("credentials", "d", name)
    assert reported("log", "zzzzzz") == "is not a setting; known here: format, level"


def test_a_word_is_answered_with_the_nearest_or_all_or_nothing():
    assert did_you_mean("corp", ["crop", "x"]) == "; did you mean crop?"
    assert did_you_mean("corp", ["x", "y"]) == "; there is x, y"
    assert did_you_mean("corp", []) == ""


def test_blocks_inside_a_credential_know_their_settings():
    tree = {"credentials": {"d": {"type": "http_json", "reply": {"type": "jwt"}}}}

    def reported(*path):
        return unknown_setting(("credentials", "d", *path), tree)

    assert reported("reply", "tokn") == "is not a setting; did you mean token?"
    assert reported("reply", "expires_in") == "is not a setting; did you mean expiry?"
    assert reported("reply", "zzzzzz") == "is not a setting; known here: token, expiry, unit, header"
    assert reported("network", "prox") == "is not a setting; did you mean proxy?"


def test_suggestion_searches_the_block_then_its_inside_then_all():
    tree = {
        "upstreams": {"chat": {}},
        "credentials": {"o": {"type": "oauth2"}, "k": {"type": "api_key"}, "s": {"type": "static"}},
    }

    def reported(*path):
        return unknown_setting(path, tree)

    assert reported("upstreams", "chat", "url") == "is not a setting; did you mean base_url?"
    assert reported("upstreams", "chat", "api_base") == "is not a setting; did you mean base_url?"
    assert reported("upstreams", "chat", "api_key") == "is not a setting; did you mean credential?"
    assert reported("upstreams", "chat", "proxy") == "is not a setting here; did you mean network.proxy?"
    assert reported("credentials", "o", "ca_file") == "is not a setting here; did you mean network.ca_file?"
    assert reported("credentials", "o", "url") == "belongs to type http_json, not to oauth2; did you mean token_url?"
    assert reported("credentials", "k", "token") == "belongs to type static, not to api_key; did you mean key?"
    assert reported("credentials", "s", "api_key") == "is not a setting; did you mean token?"
    assert reported("rerank_shape") == "is not a setting here; did you mean upstreams.NAME.rerank_shape?"
    assert reported("models", "m", "model") == "is not a setting; did you mean name?"
    assert reported("models", "m", "targets", 0, "model_name") == "is not a setting; did you mean name?"
    assert reported("access", "keys", 0, "model") == "is not a setting; did you mean models?"
    assert reported("models", "m", "access") == "is not a setting here; did you mean the top-level access?"
    assert reported("server", "url").startswith("is not a setting; known here: ")
