import pytest

from gatepass.config.document import ConfigError
from gatepass.config.environment import read_environment
from gatepass.config.load import load
from gatepass.config.references import Reference

URL = {"GATEPASS_UPSTREAM_URL": "https://llm.example/v1"}


def read(**more):
    return read_environment({**URL, **{f"GATEPASS_{name}": value for name, value in more.items()}})


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


def test_a_pasted_url_with_a_query_becomes_the_setting():
    pasted = {"UPSTREAM_URL": "https://llm.example/v1?api-version=2024-10-21&scene=a%20b", "RERANK_URL": "https://r/v1"}
    upstreams = read(**pasted).tree["upstreams"]
    assert upstreams["rerank"] == {"base_url": "https://r/v1"}
    assert upstreams["chat"] == {
        "base_url": "https://llm.example/v1",
        "query": {"api-version": "2024-10-21", "scene": "a b"},
    }
    for rest in ("a=1&a=2", "a", "a=1#b"):  # no mapping has these: the check of base_url names the setting
        with pytest.raises(ConfigError, match=r"holds a query that .*: write each parameter once, with a value"):
            load(None, {"GATEPASS_UPSTREAM_URL": f"https://llm.example/v1?{rest}"})


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


@pytest.mark.parametrize("names", [("rerank",), ("embeddings",), ("embeddings", "rerank")])
def test_each_operation_at_another_address_has_an_upstream_of_its_name(names):
    document = read(**{f"{name.upper()}_URL": f"https://{name}.example/v1" for name in names})
    assert document.problems == []
    assert document.tree["operations"] == {name: {"upstream": name} for name in names}
    assert [document.tree["upstreams"][name]["base_url"] for name in names] == [
        f"https://{name}.example/v1" for name in names
    ]
    assert document.tree["models"] == {"*": {"upstream": "chat"}}


def test_a_hash_has_its_operations_behind_it():
    one, two = (f"sha256:{digit * 64}" for digit in "12")
    variables = {
        "GATEPASS_UPSTREAM_URL": "https://u/v1",
        "GATEPASS_KEY_HASHES": f"{one}/name=a/operations=chat+models+files,{two}/operations=chat",
    }
    loaded = load(None, variables)
    assert [key.operations for key in loaded.config.access.keys] == [["chat", "models", "files"], ["chat"]]
    for odd in ("", "file"):
        with pytest.raises(ConfigError, match="expects 'chat', "):
            load(None, {**variables, "GATEPASS_KEY_HASHES": f"{one}/operations={odd}"})


def test_keys_in_a_file_share_a_name_and_are_read_again(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one,two\n")
    (entry,) = read(KEYS_FILE=str(file)).tree["access"]["keys"]
    assert (entry["name"], str(entry["key"])) == ("keys-file", "one two")
    file.write_text("three\nfour")
    assert entry["key"].read() == "three\nfour"


def test_values_are_never_references():
    document = read(SCOPE="${HOME}", CLIENT_ID="${A", CLIENT_SECRET="$$", TOKEN_URL="https://x")
    credential = document.tree["credentials"]["token"]
    assert [credential[name] for name in ("scope", "client_id", "client_secret")] == ["${HOME}", "${A", "$$"]


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxys_password_is_separated_and_hidden(scheme):
    loaded = load(None, {**URL, "GATEPASS_PROXY": f"{scheme}me:p%40ss-word@p:1"})
    for network in (loaded.config.network, loaded.config.upstreams["chat"].network):
        assert network.proxy == "http://p:1"
        assert network.proxy_auth is not None
        assert network.proxy_auth.reveal() == "me:p@ss-word"
    assert "ss-word" not in repr(loaded)


def test_a_profile_applies_to_every_key_and_is_reported_by_its_variable(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one two")
    for keys, count in (({"KEYS": "a b", "KEY_HASHES": "sha256:x"}, 3), ({"KEYS_FILE": str(file)}, 1)):
        document = read(PROFILE="ragflow", **keys)
        assert [entry["profile"] for entry in document.tree["access"]["keys"]] == ["ragflow"] * count
        assert document.problems == []
        assert str(document.origin(("access", "keys", count - 1, "profile"))) == "environment GATEPASS_PROFILE"
    assert "profile" not in read(KEYS="a").tree["access"]["keys"][0]
