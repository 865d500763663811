from gatepass.config.access import AccessKey, keys_in
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.model import Config
from gatepass.config.references import Reference

UPSTREAM = {"base_url": "https://llm.example/v1"}


def config(**blocks):
    return Config.model_validate({"upstreams": {"u": UPSTREAM}, **blocks})


def test_no_secret_is_printed():
    secret = Reference.to_variable("S", "topsecret")
    found = config(
        credentials={
            "a": {"type": "oauth2", "token_url": "https://x", "client_id": "c", "client_secret": "topsecret"},
            "b": {
                "type": "http_json",
                "url": "https://x",
                "json": {"p": ["topsecret", secret, 1]},
                "query": {"q": secret},
            },
            "c": {"type": "static", "token": secret},
        },
        access={"keys": [{"name": "a", "key": secret}]},
    )
    for text in (repr(found), str(found), repr(found.model_dump()), found.model_dump_json(by_alias=True)):
        assert "topsecret" not in text
    login = found.credentials["b"]
    assert isinstance(login, HttpJsonCredential)
    assert login.model_dump(by_alias=True)["json"] == {"p": ["(hidden)"] * 3}
    assert login.json_body["p"][1] is secret


def test_a_key_by_reference_is_read_again(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one two\n")
    key = AccessKey.model_validate({"name": "a", "key": Reference.to_file(str(file))})
    file.write_text("three")
    assert key.key is not None
    assert keys_in(key.key.reveal()) == ("three",)
    assert keys_in(" a\n b\t") == ("a", "b")
