import re
from importlib import util
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from gatepass.cli import main
from gatepass.config.checks import secrets_over_plain_http
from gatepass.config.credential.base import how_to_install
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.model import Config, Limits, StoreSettings
from gatepass.config.network import DefaultNetwork, Network
from gatepass.config.references import Reference
from gatepass.config.upstream import UpstreamConfig
from gatepass.types import Secret

UPSTREAM = {"base_url": "https://llm.example/v1"}
KEY = Secret("k" * 32)


def config(**blocks: Any) -> Config:
    return Config.model_validate({"upstreams": {"chat": UPSTREAM}, **blocks})


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


def store(**settings):
    return StoreSettings.model_validate({"url": "valkey://127.0.0.1", "encryption_key": KEY, **settings})


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("valkey://store.example", ("store.example", 6379, 0, False)),
        ("valkey://store.example:7000/", ("store.example", 7000, 0, False)),
        ("redis://store.example:7000/15", ("store.example", 7000, 15, False)),
        ("valkeys://store.example/2", ("store.example", 6379, 2, True)),
        ("rediss://[::1]:6380/0", ("::1", 6380, 0, True)),
    ],
)
def test_the_url_of_a_store_sets_host_database_and_tls(url, parts):
    made = store(url=url)
    assert (made.host, made.port, made.database, made.tls) == parts


def test_without_the_library_of_a_store_the_error_has_the_install_command(monkeypatch):
    real = util.find_spec
    monkeypatch.setattr(
        "gatepass.config.credential.base.find_spec", lambda name: None if name == "valkey" else real(name)
    )
    with pytest.raises(ValidationError, match=re.escape(how_to_install("valkey"))):
        store()


def test_a_store_prints_no_secret():
    assert "kkk" not in repr(store(password=Secret("hidden"))) + str(store().model_dump())


PROXY = "http://proxy.corp.example:3128"
OTHER = "http://other.corp.example:3128"
DEFAULT = {"ca_file": "/ca.pem", "proxy": PROXY, "proxy_auth": "me:secret", "client_cert": "/c.pem"}
KEYS = {"encryption_key": "k" * 32}


def validated(network: Any = DEFAULT, **blocks: Any) -> Config:
    return config(network=network, **blocks)


def upstream(default: Any, **settings: Any) -> Network:
    return validated(default, upstreams={"chat": {**UPSTREAM, **settings}}).upstreams["chat"].network


def members(network: Any) -> dict[str, Any]:
    auth = getattr(network, "proxy_auth", None)
    found: dict[str, Any] = network.model_dump(exclude_none=True)
    return found | ({"proxy_auth": auth.reveal()} if auth else {})


def credential(network: Any = DEFAULT, **settings: Any) -> Network:
    oauth2 = {"type": "oauth2", "token_url": "https://sso.example/t", "client_id": "a", "client_secret": "s"}
    blocks = {"credentials": {"corp": settings if "type" in settings else oauth2 | settings}}
    return validated(network, **blocks).credentials["corp"].network


def test_every_hop_inherits_the_default_network_and_the_store_its_ca_alone():
    config = validated(
        credentials={"corp": {"type": "http_json", "url": "https://sso.example", "json": {}}},
        mcp={"tools": {"url": "https://tools.example/mcp"}},
        store={"url": "valkeys://cache.example", **KEYS},
    )
    for hop in (config.upstreams["chat"], config.credentials["corp"], config.mcp["tools"]):
        assert members(hop.network) == DEFAULT
    assert config.store is not None
    assert members(config.store.network) == {"ca_file": "/ca.pem"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, DEFAULT),
        ({"ca_file": "/own.pem"}, DEFAULT | {"ca_file": "/own.pem"}),
        ({"proxy": OTHER}, {"ca_file": "/ca.pem", "proxy": OTHER, "client_cert": "/c.pem"}),
        ({"proxy": "none"}, {"ca_file": "/ca.pem", "client_cert": "/c.pem"}),
        ({"ca_file": None, "client_cert": None}, {"proxy": PROXY, "proxy_auth": "me:secret"}),
    ],
)
def test_a_hop_overrides_each_member_and_sends_no_password_to_another_proxy(own, expected):
    assert members(upstream(DEFAULT, network=own)) == expected


def test_a_store_keeps_its_own_ca_and_one_without_tls_has_none():
    def of(**settings: Any) -> Any:
        config = validated(store={**KEYS, **settings})
        assert config.store is not None
        return members(config.store.network)

    assert of(url="valkey://cache.example") == {}
    assert of(url="valkeys://cache.example", network={"ca_file": "/own.pem"}) == {"ca_file": "/own.pem"}


@pytest.mark.parametrize(
    ("entries", "host", "expected"),
    [
        (["example"], "llm.example", True),
        ([".example"], "LLM.Example.", True),
        (["*.example"], "llm.example", True),
        (["*"], "llm.example", True),
        (["lm.example"], "llm.example", False),
        (["10.0.0.0/8", "fd00::/8"], "10.1.2.3", True),
        (["10.0.0.0/8", "fd00::/8"], "[fd00::1]", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        ("a.example, .b.example c.example", "x.b.example", True),
        ([], "llm.example", False),
        ([], "localhost", True),
        ([], "127.0.0.1", True),
    ],
)
def test_hosts_of_no_proxy_and_of_this_machine_avoid_the_default_proxy(entries, host, expected):
    network = DefaultNetwork.model_validate({"proxy": PROXY, "no_proxy": entries})
    assert network.avoids_proxy(host) is expected
    found = upstream({"proxy": PROXY, "no_proxy": entries}, base_url=f"https://{host}:8443/v1")
    assert found.proxy == (None if expected else PROXY)


def test_a_host_of_no_proxy_may_have_its_own_proxy():
    given = {"proxy": PROXY, "no_proxy": ["llm.example"]}
    assert upstream(given, network={"proxy": OTHER}).proxy == OTHER


def test_a_credential_avoids_the_proxy_if_all_its_hosts_do():
    given = {"proxy": PROXY, "no_proxy": ["sso.example"]}
    assert credential(given).proxy is None


def test_a_credential_may_identify_itself_by_the_common_certificate():
    assert credential(client_auth="mtls", client_secret=None).client_cert == "/c.pem"


def test_a_configuration_of_a_program_inherits_too():
    network = DefaultNetwork.model_validate({"proxy": PROXY, "proxy_auth": "me:secret"})
    config = Config(network=network, upstreams={"chat": UpstreamConfig.model_validate(UPSTREAM)})
    assert members(config.upstreams["chat"].network) == {"proxy": PROXY, "proxy_auth": "me:secret"}


def test_a_secret_is_not_sent_to_the_default_proxy_in_plain():
    blocks = {"chat": {"base_url": "http://127.0.0.1:9/v1", "headers": {"x": "s"}, "network": {"proxy": PROXY}}}
    network = {"proxy": PROXY, "no_proxy": ["llm.example"]}
    assert len([*secrets_over_plain_http(validated(network=network, upstreams=blocks))]) == 1
    del blocks["chat"]["network"]
    assert [*secrets_over_plain_http(validated(network=network, upstreams=blocks))] == []


FILE = """\
network:
  proxy: http://proxy.corp.example:3128
  no_proxy: "${NO_PROXY}"
upstreams:
  chat: {base_url: "https://llm.example/v1"}
  own: {base_url: "https://own.example/v1", network: {proxy: none}}
  near: {base_url: "https://near.corp.example/v1"}
models: {"*": {upstream: chat}}
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gatepass.yaml").write_text(FILE)
    return lambda **environment: CliRunner().invoke(main, ["check", "--all"], env=environment).stdout


def test_variables_override_the_block_of_the_file(check):
    shown = check(NO_PROXY="", GATEPASS_PROXY="me:secret@p.example:1", GATEPASS_NO_PROXY="llm.example")
    assert shown.count('proxy: "http://p.example:1"  # environment GATEPASS_PROXY') == 2  # the block, and `near`
    assert shown.count('proxy_auth: "(hidden)"  # environment GATEPASS_PROXY') == 2
    assert '"llm.example"  # environment GATEPASS_NO_PROXY' in shown
    assert "secret" not in shown
    assert "http://p" not in check(NO_PROXY="", GATEPASS_PROXY="none")


def test_the_inspector_has_a_sixteenth_of_the_budget_and_4_mib_at_most():
    rings = [Limits(held_bytes=held_bytes).ring_bytes for held_bytes in (16 << 20, 512 << 20)]
    assert rings == [1 << 20, 4 << 20]


def test_the_credential_of_an_issuers_key_set_is_used():
    row = {"claim": "sub", "equals": "a", "name": "a"}
    issuer = {"issuer": "https://login.example", "audience": "a", "credential": "reader", "callers": [row]}
    credentials = {"reader": {"type": "file", "path": "/t"}, "idle": {"type": "file", "path": "/u"}}
    upstreams = {"main": {"base_url": "https://llm.example/v1"}}
    config = validated(upstreams=upstreams, credentials=credentials, access={"jwt": [issuer]})
    assert [(path, name) for path, name in config.used_credentials() if name] == [(("access", "jwt", 0), "reader")]
