import json
import re

import pytest

from gatepass.config.document import ConfigError
from gatepass.config.environment import parsed_json, read_environment, with_variables
from gatepass.config.load import load
from gatepass.config.references import Reference, UnresolvedReference

SECRET = "GATEPASS_CLIENT_SECRET"
NO_JSON = "is not JSON: Expecting value (line 1, column 7)"
DIFFER = "belong to different types of credential: keep one of them"
URL = {"GATEPASS_UPSTREAM_URL": "https://llm.example/v1"}


def read(**more):
    return read_environment({**URL, **{f"GATEPASS_{name}": value for name, value in more.items()}})


def problems(**more):
    return [str(problem) for problem in read(**more).problems]


def test_a_url_alone_is_an_upstream_for_every_model():
    document = read()
    assert document.tree == {
        "upstreams": {"chat": {"base_url": "https://llm.example/v1"}},
        "models": {"*": {"upstream": "chat"}},
    }
    assert document.problems == []
    assert str(document.origin(("upstreams", "chat", "base_url"))) == "environment GATEPASS_UPSTREAM_URL"


def test_an_oauth2_credential_is_inferred_from_the_client_id():
    document = read(TOKEN_URL="https://sso/t", CLIENT_ID="me", CLIENT_SECRET="topsecret", SCOPE="a b")
    assert document.tree["credentials"] == {
        "token": {
            "type": "oauth2",
            "token_url": "https://sso/t",
            "client_id": "me",
            "client_secret": "topsecret",
            "scope": "a b",
        }
    }
    assert document.tree["upstreams"]["chat"]["credential"] == "token"
    assert str(document.origin(("credentials", "token", "type"))) == "environment GATEPASS_CLIENT_ID"
    assert document.problems == []
    assert "topsecret" not in repr(document)


def test_client_auth_sends_the_secret_in_the_form():
    document = read(TOKEN_URL="https://sso/t", CLIENT_ID="me", CLIENT_SECRET="topsecret", CLIENT_AUTH="form")
    assert document.tree["credentials"]["token"]["client_auth"] == "form"
    assert document.problems == []


def test_issuer_replaces_the_token_url():
    document = read(ISSUER="https://sso", CLIENT_ID="me", CLIENT_SECRET="topsecret")
    assert document.tree["credentials"]["token"]["issuer"] == "https://sso"
    assert document.problems == []


def test_a_static_credential_is_inferred_from_the_token():
    document = read(TOKEN="abc", TOKEN_TYPE="static")
    assert document.tree["credentials"] == {"token": {"type": "static", "token": "abc"}}
    assert read(TOKEN="abc").tree["credentials"] == document.tree["credentials"]


def test_a_json_login_and_a_second_host_for_embeddings():
    document = read(
        EMBEDDINGS_URL="https://embed.example/v1",
        TOKEN_URL="https://portal/t",
        TOKEN_JSON='{"app_id": "bot", "deep": [{"secret": "$${x} top"}, 5, null]}',
        TOKEN_PATH="data.token",
        EXPIRES_PATH="data.expireAt",
        EXPIRES_UNIT="ms",
    )
    assert document.tree == {
        "upstreams": {
            "chat": {"base_url": "https://llm.example/v1", "credential": "token"},
            "embeddings": {"base_url": "https://embed.example/v1", "credential": "token"},
        },
        "models": {"*": {"upstream": "chat"}},
        "operations": {"embeddings": {"upstream": "embeddings"}},
        "credentials": {
            "token": {
                "type": "http_json",
                "url": "https://portal/t",
                "json": {"app_id": "bot", "deep": [{"secret": "$${x} top"}, 5, None]},
                "reply": {"token": "data.token", "expiry": "data.expireAt", "unit": "ms"},
            }
        },
    }
    assert document.problems == []
    assert isinstance(document.tree["credentials"]["token"]["json"]["deep"][0]["secret"], Reference)


def test_a_path_of_a_lifetime_goes_to_expires_in():
    document = read(TOKEN_TYPE="http_json", TOKEN_URL="https://p", EXPIRES_PATH="ttl")
    assert document.tree["credentials"]["token"]["reply"] == {"expiry": "ttl"}


def test_a_login_in_a_file_is_read_again(tmp_path):
    file = tmp_path / "login.json"
    file.write_text('{"app": "bot", "secret": "one", "n": 1}')
    secret = read(TOKEN_URL="https://p", TOKEN_JSON_FILE=str(file)).tree["credentials"]["token"]["json"]["secret"]
    assert (str(secret), secret.read()) == ("one", "one")
    file.write_text('{"app": "bot", "secret": "two", "n": 1}')
    assert secret.read() == "two"
    for broken, reported in (("{", "is not JSON"), ('{"secret": 5}', "is missing since the file changed")):
        file.write_text(broken)
        with pytest.raises(UnresolvedReference, match=reported):
            secret.read()


def test_several_keys_and_hashes_have_names_of_their_own():
    document = read(KEYS="one, two\nthree", KEY_HASHES=" sha256:a,sha256:b ")
    assert document.tree["access"] == {
        "keys": [
            {"name": "key-1", "key": "one"},
            {"name": "key-2", "key": "two"},
            {"name": "key-3", "key": "three"},
            {"name": "hash-1", "hash": "sha256:a"},
            {"name": "hash-2", "hash": "sha256:b"},
        ]
    }
    assert all(isinstance(entry["key"], Reference) for entry in document.tree["access"]["keys"][:3])
    places = [("access", "keys", 2, "key"), ("access", "keys", 3, "hash")]
    assert [str(document.origin(place)) for place in places] == [
        "environment GATEPASS_KEYS",
        "environment GATEPASS_KEY_HASHES",
    ]
    assert "access" not in read(KEYS=" , ", KEY_HASHES=",").tree


def test_a_hash_has_its_settings_behind_it():
    hashes = "sha256:a/name=grafana/role=viewer/expires=2027-01-31T00:00:00+01:00 sha256:b/profile=dify,sha256:c"
    assert read(KEY_HASHES=hashes, PROFILE="ragflow").tree["access"]["keys"] == [
        {
            "name": "grafana",
            "hash": "sha256:a",
            "role": "viewer",
            "expires": "2027-01-31T00:00:00+01:00",
            "profile": "ragflow",
        },
        {"name": "hash-2", "hash": "sha256:b", "profile": "dify"},
        {"name": "hash-3", "hash": "sha256:c", "profile": "ragflow"},
    ]


def test_a_whole_line_as_the_value_is_one_problem_that_names_the_mistake():
    one = f"sha256:{'1' * 64}/name=ragflow"
    variables = {"GATEPASS_UPSTREAM_URL": "https://u/v1", "GATEPASS_KEY_HASHES": f"GATEPASS_KEY_HASHES={one}"}
    with pytest.raises(ConfigError) as caught:
        load(None, variables)
    (problem,) = caught.value.problems
    assert str(problem) == (
        "environment GATEPASS_KEY_HASHES: begins with its own name: remove the second GATEPASS_KEY_HASHES="
    )


def test_a_setting_is_followed_by_its_variable_once():
    text = "Check network.proxy_auth, upstreams.embeddings.base_url and network.proxy."
    assert with_variables(text) == (
        "Check network.proxy_auth (GATEPASS_PROXY), upstreams.embeddings.base_url (GATEPASS_EMBEDDINGS_URL) and"
        " network.proxy (GATEPASS_PROXY)."
    )
    assert with_variables(with_variables(text)) == with_variables(text)
    for other in ("upstreams.chat.network.client_cert", "upstreams.chat2.base_url", "store.network.ca_file"):
        assert with_variables(other) == other


def test_a_hash_has_its_operations_behind_it():
    one, two = (f"sha256:{digit * 64}" for digit in "12")
    variables = {
        "GATEPASS_UPSTREAM_URL": "https://u/v1",
        "GATEPASS_KEY_HASHES": f"{one}/name=a/operations=chat+models+GET:files,{two}/operations=chat",
    }
    loaded = load(None, variables)
    assert [key.operations for key in loaded.config.access.keys] == [["chat", "models", "GET files"], ["chat"]]
    for odd, reason in (("", "'' is not known here"), ("get:files", "did you mean GET files?")):
        with pytest.raises(ConfigError, match=re.escape(reason)):
            load(None, {**variables, "GATEPASS_KEY_HASHES": f"{one}/operations={odd}"})


def test_unknown_setting_of_a_hash_is_refused_without_quoting_it():
    for odd in ("sha256:a/models=m", "sha256:a/gp-secret", "sha256:a/", "sha256:a/hash=sha256:b"):
        document = read(KEY_HASHES=odd)
        (problem,) = document.problems
        assert str(problem).startswith("environment GATEPASS_KEY_HASHES: expects HASH/name=NAME/role=ROLE/")
        assert "gp-secret" not in str(problem)
        assert document.tree["access"]["keys"] == [{"name": "hash-1", "hash": "sha256:a"}]


def test_keys_in_a_file_share_a_name_and_are_read_again(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one,two\n")
    (entry,) = read(KEYS_FILE=str(file)).tree["access"]["keys"]
    assert (entry["name"], str(entry["key"])) == ("keys-file", "one two")
    file.write_text("three\nfour")
    assert entry["key"].read() == "three\nfour"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"TOKEN_ULR": "x", "TOKEN": "abc"},
            ["environment GATEPASS_TOKEN_ULR: is not a variable of gatepass; did you mean GATEPASS_TOKEN_URL?"],
        ),
        (
            {"TOKEN_TYPE": "oauth", "SCOPE": "a"},
            ["environment GATEPASS_TOKEN_TYPE: 'oauth' is not known here; did you mean oauth2?"],
        ),
        (
            {"TOKEN_URL": "https://p"},
            ["environment GATEPASS_TOKEN_TYPE: is missing: oauth2 or http_json or static"],
        ),
        (
            {"TOKEN": "a", "CLIENT_ID": "b"},
            [f"environment: GATEPASS_TOKEN and GATEPASS_CLIENT_ID {DIFFER}"],
        ),
        (
            {"TOKEN_TYPE": "static", "TOKEN": "abc", "SCOPE": "x", "TOKEN_URL": "y"},
            [
                "environment GATEPASS_TOKEN_URL: has no effect on a credential of type static: remove it",
                "environment GATEPASS_SCOPE: has no effect on a credential of type static: remove it",
            ],
        ),
        (
            {"CLIENT_ID": "me"},
            [
                "environment: credentials.token.token_url: is missing: set GATEPASS_TOKEN_URL",
                f"environment: credentials.token.client_secret: is missing: set {SECRET} (or {SECRET}_FILE)",
            ],
        ),
        (
            {"TOKEN_URL": "https://p", "TOKEN_JSON": '{"a": topsecret}'},
            [
                f"environment GATEPASS_TOKEN_JSON: credentials.token.json: {NO_JSON}",
            ],
        ),
    ],
)
def test_problem_names_the_variable(given, expected):
    assert problems(**given) == expected


def test_a_secret_given_twice_is_refused(tmp_path):
    file = tmp_path / "t"
    file.write_text("abc")
    assert problems(TOKEN="abc", TOKEN_FILE=str(file)) == [
        "environment GATEPASS_TOKEN_FILE: conflicts with GATEPASS_TOKEN: keep one of them"
    ]


def test_an_unreadable_file_names_its_variable():
    fault = "the file /no cannot be read: No such file or directory"
    assert problems(TOKEN_FILE="/no", KEYS_FILE="/no") == [
        f"environment GATEPASS_TOKEN_FILE: credentials.token.token: {fault}",
        f"environment GATEPASS_KEYS_FILE: access.keys[0]: {fault}",
    ]


def test_values_are_never_references():
    document = read(SCOPE="${HOME}", CLIENT_ID="${A", CLIENT_SECRET="$$", TOKEN_URL="https://x")
    credential = document.tree["credentials"]["token"]
    assert [credential[name] for name in ("scope", "client_id", "client_secret")] == ["${HOME}", "${A", "$$"]


def test_any_json_may_be_a_login():
    assert read(TOKEN_URL="https://p", TOKEN_JSON=json.dumps(["a"])).tree["credentials"]["token"]["json"] == ["a"]


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxys_password_is_separated_and_hidden(scheme):
    loaded = load(None, {**URL, "GATEPASS_PROXY": f"{scheme}me:p%40ss-word@p:1"})
    for network in (loaded.config.network, loaded.config.upstreams["chat"].network):
        assert network.proxy == "http://p:1"
        assert network.proxy_auth is not None
        assert network.proxy_auth.reveal() == "me:p@ss-word"
    assert "ss-word" not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://u:topsecret@p:x", "is not a URL: its host or port is malformed"),
        ("http://u:topsecret\u2100@p:1", "is not a URL: its host or port is malformed"),
        (
            "http://u:1/topsecret@p:1",
            "holds an @ after its host: in a password write / as %2F, ? as %3F and # as %23",
        ),
        ("ftp://u:topsecret@p:1", "expects http://host… or https://host…"),
    ],
)
def test_an_invalid_proxy_is_reported_without_its_password(text, expected):
    with pytest.raises(ConfigError) as caught:
        load(None, {**URL, "GATEPASS_PROXY": text})
    assert str(caught.value) == f"environment GATEPASS_PROXY: network.proxy: {expected}"


def test_an_unknown_variable_is_reported_with_the_nearest_one():
    expected = "environment GATEPASS_TOKENS: is not a variable of gatepass; did you mean GATEPASS_TOKEN?"
    assert problems(TOKENS="x") == [expected]


def test_an_unknown_variable_that_resembles_none_is_reported_with_all():
    for name in ("ZZZZ", "DIALECT", "BASE_URL", "STORE_URL"):
        (reported,) = problems(**{name: "x"})
        assert reported.startswith(
            f"environment GATEPASS_{name}: is not a variable of gatepass; there is GATEPASS_ALLOW_PLAIN_HTTP, "
        )
        assert "GATEPASS_UPSTREAM_URL" in reported
        assert reported.endswith(". All other settings require a file")


def test_doctors_key_variable_is_accepted_and_adds_no_key():
    document = read(KEY="gp-of-the-shell-4711")
    assert document.problems == []
    assert document.warnings == [
        "GATEPASS_KEY is used only by `gatepass doctor --url`: set the clients' keys with GATEPASS_KEYS",
    ]
    assert document.tree == read().tree
    assert read().warnings == []


def test_a_profile_applies_to_every_key_and_is_reported_by_its_variable(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one two")
    for keys, count in (({"KEYS": "a b", "KEY_HASHES": "sha256:x"}, 3), ({"KEYS_FILE": str(file)}, 1)):
        document = read(PROFILE="ragflow", **keys)
        assert [entry["profile"] for entry in document.tree["access"]["keys"]] == ["ragflow"] * count
        assert document.problems == []
        assert str(document.origin(("access", "keys", count - 1, "profile"))) == "environment GATEPASS_PROFILE"
    assert "profile" not in read(KEYS="a").tree["access"]["keys"][0]


def test_a_profile_without_keys_is_refused():
    assert problems(PROFILE="ragflow") == [
        (
            "environment GATEPASS_PROFILE: is the profile of clients' keys, but there are no keys: set GATEPASS_KEYS"
            " or GATEPASS_KEY_HASHES, or remove it"
        )
    ]


def test_plain_http_is_allowed_for_every_hop_by_one_variable():
    """As to http://litellm:4000 in a compose network."""
    given = {
        "UPSTREAM_URL": "http://litellm:4000/v1",
        "EMBEDDINGS_URL": "http://tei:80/v1",
        "TOKEN": "a-token-of-litellm",
    }
    environment = {f"GATEPASS_{name}": value for name, value in given.items()}
    with pytest.raises(ConfigError, match="GATEPASS_ALLOW_PLAIN_HTTP=true without a file"):
        load(None, environment)
    config = load(None, {**environment, "GATEPASS_ALLOW_PLAIN_HTTP": "true"}).config
    hops = [*config.upstreams.values(), *config.credentials.values()]
    assert [hop.allow_plain_http for hop in hops] == [True] * 3
    for value in ("false", "yes"):
        with pytest.raises(ConfigError):
            load(None, {**environment, "GATEPASS_ALLOW_PLAIN_HTTP": value})


def test_the_json_of_a_login_is_read_and_never_quoted():
    assert parsed_json('{"a": [1]}') == {"a": [1]}
    for text, reported in (('{"topsecret', "line 1, column 2"), ('["topsecret", NaN]', "holds NaN, Infinity")):
        with pytest.raises(ValueError) as caught:
            parsed_json(text)
        assert reported in str(caught.value)
        assert "topsecret" not in str(caught.value)
