from gatepass.config.access import AccessKey, keys_in
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.model import Config
from gatepass.config.network import TimeoutSettings
from gatepass.config.references import Reference
from gatepass.config.routes import Model, ModelTarget
from gatepass.types import Secret, Timeouts

UPSTREAM = {"base_url": "https://llm.example/v1"}


def config(**blocks):
    return Config.model_validate({"upstreams": {"u": UPSTREAM}, **blocks})


def test_a_model_has_its_targets_in_order():
    assert Model(upstream="u", name="x").ordered_targets() == [ModelTarget(upstream="u", name="x")]
    targets = [ModelTarget(upstream="u"), ModelTarget(upstream="v", name="y")]
    assert Model(targets=targets).ordered_targets() == targets


def test_timeouts_become_the_shared_value():
    assert TimeoutSettings(connect_s=1, total_s=9).value("upstreams.u") == Timeouts(1, 600, 300, 9)


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


def test_a_secret_that_is_one_already_stays_the_same():
    secret = Secret("x" * 16)
    assert AccessKey(name="a", key=secret).key is secret
