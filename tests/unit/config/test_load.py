import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepass.config.checks import PLAIN_HTTP_TO_HOST, PLAIN_HTTP_TO_PROXY, world_accessible_secrets
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.kinds import KINDS, StaticCredential
from gatepass.config.document import ConfigError, with_leaves
from gatepass.config.load import load
from gatepass.config.model import Config

ROOT = Path(__file__).parents[3]
UNSET = "the environment variable {} is not set: set it, or write $$ for a plain dollar"
LATER = "was removed in 0.2.0: Write the request itself: the page Tokens has the recipe of each former preset."
AWAY = "the file /nowhere cannot be read: No such file or directory"
HASH = "sha256:" + "a" * 64
MINIMAL = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"


@pytest.fixture
def write(tmp_path):
    def written(text, name="gatepass.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def refused(path, environment=None, **flags):
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {}, **flags)
    assert caught.value.__cause__ is None
    directory = f"{Path(path).parent}/" if path else ""
    return str(caught.value).replace(directory, "") if directory else str(caught.value)


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "http://localhost:3128"])
def test_proxy_by_reference_sends_no_secret_of_this_machine_away_in_plain(write, proxy):
    path = write(
        "upstreams:\n  chat: {base_url: 'http://127.0.0.1:9/v1', credential: key, network: {proxy: '${HTTP_PROXY}'}}\n"
        "credentials: {key: {type: static, token: '${KEY}'}}\n"
    )
    environment = {"HTTP_PROXY": proxy, "KEY": "s3cret-value"}
    if "localhost" in proxy:
        assert load(path, environment).config.upstreams["chat"].network.proxy == proxy
    else:
        text = PLAIN_HTTP_TO_PROXY.format(block="upstreams.chat")
        assert refused(path, environment) == f"gatepass.yaml:2: upstreams.chat.base_url: {text}"


SECRET_FILES = """\
upstreams: {{chat: {{base_url: 'https://llm.example/v1', credential: key}}}}
credentials: {{key: {{type: static, token: '{token}'}}, own: {{type: file, path: {path}}}}}
"""


def exposed(reported, who, file, mode):
    return f"{file} {reported} by every user of this machine (mode {mode:04o}): {who}, and run `chmod o-rwx` on it"


READABLE, WRITABLE = "can be read", "can be written"
SHORT_KEY = "is shorter than 16 characters: create one with `gatepass keys new`"
NARROW = "set its owner to the user that runs gatepass"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o600, None), (0o640, None), (0o644, READABLE), (0o602, WRITABLE), (0o666, f"{READABLE} and written")],
)
def test_a_world_readable_secret_file_is_warned_of(write, tmp_path, mode, expected):
    token, path = tmp_path / "token", tmp_path / "path"
    text = SECRET_FILES.format(token=f"${{file:{token}}}", path=path)
    for file in (token, path):
        file.write_text("s3cret-value")
        file.chmod(mode)
    warnings = load(write(text), {}).warnings
    assert warnings == (
        () if expected is None else tuple(exposed(expected, NARROW, file, mode) for file in (path, token))
    )


@pytest.mark.parametrize(
    ("block", "is_reported"),
    [
        ({"credentials": {"azure": {"certificate_file": "FILE"}}}, True),
        ({"credentials": {"corp": {"network": {"client_cert": "FILE"}}}}, True),
        ({"upstreams": {"chat": {"network": {"client_cert": "FILE"}}}}, True),
        ({"store": {"network": {"client_cert": "FILE"}}}, True),
        ({"store": {"network": {"client_cert": "FILE", "client_key": None}}}, True),
        ({"store": {"network": {"client_cert": "FILE", "client_key": "other.key"}}}, False),
        ({"store": {"network": {"client_cert": "other.pem", "client_key": "FILE"}}}, True),
        ({"store": {"network": {"ca_file": "FILE"}}}, False),
        ({"credentials": {"corp": {"assertion_file": "FILE", "subject_file": "FILE"}}}, False),
    ],
)
def test_a_world_readable_file_with_a_certificate_and_its_key_is_warned_of(tmp_path, block, is_reported):
    file = tmp_path / "app.pem"
    file.write_text("a certificate and its key")
    file.chmod(0o644)
    tree = with_leaves(block, lambda leaf: str(file) if leaf == "FILE" else leaf)
    warnings = tuple(world_accessible_secrets(tree))
    assert warnings == ((exposed(READABLE, NARROW, file, 0o644),) if is_reported else ())


@pytest.mark.parametrize(
    ("token", "mode", "expected"),
    [
        ("${TOKEN}", 0o644, None),
        ("${TOKEN}", 0o646, WRITABLE),
        ("s3cret-value", 0o640, None),
        ("s3cret-value", 0o644, f"holds a secret (credentials.key.token) and {READABLE}"),
        ("s3cret-value", 0o666, f"holds a secret (credentials.key.token) and {READABLE} and written"),
    ],
)
def test_a_world_writable_or_readable_configuration_is_warned_of(write, tmp_path, token, mode, expected):
    own = tmp_path / "own"
    own.write_text("s3cret-value")
    own.chmod(0o600)
    file = Path(write(SECRET_FILES.format(token=token, path=own)))
    file.chmod(mode)
    warnings = load(str(file), {"TOKEN": "s3cret-value"}).warnings
    assert warnings == (() if expected is None else (exposed(expected, NARROW, file, mode),))


@pytest.mark.parametrize(("header", "is_secret"), [("X-App", False), ("AI-Resource-Group", False), ("X-API-Key", True)])
def test_header_is_a_secret_by_its_name(write, header, is_secret):
    file = write(f"upstreams: {{u: {{base_url: 'https://u/v1', headers: {{{header}: default}}}}}}")
    Path(file).chmod(0o644)
    reported = f"holds a secret (upstreams.u.headers.{header}) and {READABLE}"
    assert load(file, {}).warnings == ((exposed(reported, NARROW, file, 0o644),) if is_secret else ())


def test_the_example_is_a_configuration(monkeypatch):
    environment = {"CORP_SECRET": "a", "PORTAL_SECRET": "b", "LIBRECHAT_KEY": "0123456789abcdef"}
    loaded = load(str(ROOT / "config.example.yaml"), environment)
    assert loaded.warnings == ()
    assert set(loaded.config.upstreams) == {"chat", "embed"}
    login = loaded.config.credentials["login"]
    assert isinstance(login, HttpJsonCredential)
    assert login.json_body == {"app_id": "bot", "secret": "b"}


def test_example_has_every_block_and_is_valid(write):
    """The commented settings (`#name:`, without a space) load too, together with the rest."""
    text = re.sub(r"(?m)^( *)#(?=[^ #\n])", r"\1", (ROOT / "config.example.yaml").read_text())
    secrets = ("CORP_SECRET", "PORTAL_SECRET", "LIBRECHAT_KEY", "LIBRECHAT_KEY_2", "LLM_KEY", "STORE_PASSWORD")
    environment = {name: f"0123456789-{name}" for name in secrets} | {"STORE_KEY": "k" * 32}
    config = load(write(text), environment).config
    assert config.model_fields_set == set(Config.model_fields)
    assert {credential.type for credential in config.credentials.values()} == set(KINDS)
    assert {upstream.dialect for upstream in config.upstreams.values()} == {"openai", "azure", "ragflow"}
    written = {name for upstream in config.upstreams.values() for name in upstream.model_fields_set}
    assert {
        "token_placement",
        "headers",
        "rejection",
        "network",
        "timeouts",
        "learn",
        "repair",
        "azure",
        "ragflow",
    } <= written
    assert {"rules", "capabilities", "targets", "stream"} <= {
        name for model in config.models.values() for name in model.model_fields_set
    }


def test_a_small_file_is_enough(write):
    loaded = load(write(MINIMAL), {})
    assert loaded.config.upstreams["chat"].base_url == "https://llm.example/v1"
    assert loaded.origin(("upstreams", "chat", "base_url")).endswith("gatepass.yaml:1")
    assert loaded.origin(("server", "port")) == "default"


def test_json_and_yaml_give_the_same_configuration(write):
    tree = {"upstreams": {"chat": {"base_url": "https://llm.example/v1"}}}
    loaded = load(write(json.dumps(tree, indent="\t"), "gatepass.json"), {})
    assert loaded.config == load(write(MINIMAL), {}).config
    assert loaded.origin(("upstreams", "chat", "base_url")).endswith("gatepass.json:4")


def test_the_environment_names_the_file(write):
    assert load(None, {"GATEPASS_CONFIG": write(MINIMAL)}).source.endswith("gatepass.yaml")
    assert load(write(MINIMAL), {"GATEPASS_CONFIG": "/nowhere.yaml"}).source.endswith("gatepass.yaml")


NOT_FOUND = (
    "configuration: not found: write ./gatepass.yaml with `gatepass init`, name a file with --config or"
    " GATEPASS_CONFIG, or set GATEPASS_UPSTREAM_URL. `gatepass demo` needs no configuration"
)


def test_the_file_of_the_current_folder_is_read_if_nothing_else_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(None) == NOT_FOUND
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://here.example/v1}}")
    assert load(None, {}).source == "gatepass.yaml"
    assert load(None, {"GATEPASS_UPSTREAM_URL": "https://llm.example/v1"}).source == "environment"
    (tmp_path / "other.yaml").write_text(file.read_text())
    assert load("other.yaml", {}).source == load(None, {"GATEPASS_CONFIG": "other.yaml"}).source == "other.yaml"


def test_the_file_of_the_current_folder_is_refused_if_others_own_it_or_may_write_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://here.example/v1}}")
    file.chmod(0o666)
    assert refused(None) == (
        "gatepass.yaml: can be written by every user of this machine: run chmod o-w on it, or name the configuration"
        " file with --config"
    )
    file.chmod(0o600)
    monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + 1)
    if file.stat().st_uid == 0:  # root's files are accepted
        os.chown(file, 65_432, -1)
    assert refused(None) == "gatepass.yaml: belongs to another user: name the configuration file with --config"
    assert load(str(file), {}).source == str(file)


def test_without_any_configuration_the_error_names_the_possible_sources():
    reported = NOT_FOUND
    assert refused(None) == reported
    assert refused(None, {"GATEPASS_CONFIG": "", "GATEPASS_UPSTREAM_URL": ""}) == reported


def test_without_any_configuration_a_mistyped_variable_is_named():
    environment = {"GATEPASS_UPSTREAM": "https://topsecret", "GATEPASS_TOKEN": "t", "GATEPASS_CONFG": "x"}
    assert refused(None, environment).splitlines() == [
        NOT_FOUND,
        "environment GATEPASS_CONFG: is not a variable of gatepass; did you mean GATEPASS_CONFIG?",
        "environment GATEPASS_UPSTREAM: is not a variable of gatepass; did you mean GATEPASS_UPSTREAM_URL?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('server: {port: "8080"}', "server.port: expects a whole number, not a text"),
        ("server: {watch: yes}", "server.watch: expects true or false, not a text"),
        (
            'models: {m: {upstream: chat, timeouts: {idle_s: "5m"}}}',
            "models.m.timeouts.idle_s: expects a number of seconds, not a text",
        ),
        (
            "models: {m: {targets: [{upstream: chat}, {upstream: chat, name: 4}]}}",
            "models.m.targets[1].name: expects a text, not a number",
        ),
    ],
)
def test_a_wrong_type_is_reported_with_the_actual_one(write, text, expected):
    assert refused(write(f"{MINIMAL}{text}\n")) == f"gatepass.yaml:2: {expected}"


def test_a_base_url_with_a_password_and_a_query_reports_both(write):
    assert refused(write("upstreams: {chat: {base_url: 'https://u:topsecret@h/v1?x=1'}}\n")) == (
        "gatepass.yaml:1: upstreams.chat.base_url: holds a user name or password: put it under credentials;"
        " holds a query: gatepass appends a path to this URL, so end it before the ?"
    )


def test_a_reference_without_braces_is_pointed_out(write):
    path = write(
        MINIMAL + 'credentials:\n  a: {type: static, token: "$NOPE"}\n  b: {type: static, token: "$$NOPE"}\n'
        '  c: {type: http_json, url: "https://x", json: {k: [1, "$S"]}}\n  d: {type: static, token: "${REAL}"}\n'
    )
    Path(path).chmod(0o600)
    loaded = load(path, {"REAL": "$TOPSECRET"})
    assert loaded.warnings == (
        f"{path}:3: credentials.a.token: looks like a reference: did you mean ${{NOPE}}? ($$ is a plain dollar)",
        f"{path}:5: credentials.c.json.k[1]: looks like a reference: did you mean ${{S}}? ($$ is a plain dollar)",
    )
    token = loaded.config.credentials["a"]
    assert isinstance(token, StaticCredential)
    assert token.token.reveal() == "$NOPE"


def test_flags_beat_the_environment_and_the_environment_beats_the_file(write):
    path = write(MINIMAL + "server: {host: 127.0.0.2, port: 1}\n")
    environment = {"GATEPASS_HOST": "127.0.0.3", "GATEPASS_PORT": "2"}

    def listening(**flags):
        loaded = load(path, environment, **flags)
        server = loaded.config.server
        return [(server.host, loaded.origin(("server", "host"))), (server.port, loaded.origin(("server", "port")))]

    assert listening() == [("127.0.0.3", "environment GATEPASS_HOST"), (2, "environment GATEPASS_PORT")]
    assert listening(host="127.0.0.4", port=0) == [("127.0.0.4", "--host"), (0, "--port")]


@pytest.mark.parametrize(("text", "is_on"), [("true", True), ("False", False), ("", None)])
def test_a_variable_switches_the_page_on_or_off(write, text, is_on):
    environment = {"GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1", "GATEPASS_UI": text}
    assert load(None, environment).config.server.ui is is_on
    assert load(write(MINIMAL), environment).config.server.ui is is_on
    assert refused(write(MINIMAL), {"GATEPASS_UI": "on"}).startswith("environment GATEPASS_UI: server.ui: expects ")


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("1.5", "a whole number, not a number with a point or an exponent"),
        *((port, "a whole number, not a text") for port in ("80a", "１", "+1")),
        *(("-1", "0 or more"), ("99999", "65535 or less"), ("9" * 300, "65535 or less")),
    ],
)
def test_invalid_port_in_the_environment_is_refused_without_advice_about_quotes(write, port, expected):
    found = refused(write(MINIMAL), {"GATEPASS_PORT": port})
    assert found == f"environment GATEPASS_PORT: server.port: expects {expected}"


def test_a_server_that_is_no_block_is_refused_with_host_and_port_given(write):
    assert refused(write(MINIMAL + "server: [1]\n"), {"GATEPASS_PORT": "2"}) == (
        "gatepass.yaml:2: server: expects a block of settings, not a list"
    )
    assert load(write(MINIMAL + "server:\n"), {"GATEPASS_PORT": "2"}).config.server.port == 2


def test_host_beyond_loopback_needs_keys_for_every_origin_of_the_host(write):
    path = write(MINIMAL)
    for environment, flags, place in (
        ({"GATEPASS_HOST": "0.0.0.0"}, {}, "environment GATEPASS_HOST"),
        ({}, {"host": "0.0.0.0"}, "--host"),
        ({"GATEPASS_HOST": "127.0.0.1"}, {"host": "::"}, "--host"),
    ):
        assert refused(path, environment, **flags).startswith(
            f"{place}: server.host: is reachable from other machines, and there are no keys: run `gatepass keys new`"
        )
    keyed = write(MINIMAL + f"access: {{keys: [{{name: a, hash: '{HASH}'}}]}}\n")
    assert load(keyed, {}, host="0.0.0.0").config.server.host == "0.0.0.0"


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(write):
    path = write(
        """\
server: {prot: 1}
credentials:
  corp: {type: oauth2, token_url: "http://sso.example/t", client_id: x, client_secret: "${MISSING}"}
  later: {type: http_json, preset: ibm_iam}
upstreams:
  chat: {base_url: "https://x", dialect: azur, credential: crop}
  chat: {base_url: 5}
  other: {base_url: "${URL}", network: {ca_file: /nowhere.pem}, credential: later}
models:
  gpt: {upstream: chatt, stream: atuo}
access:
  keys: [{name: a, key: "${SHORT}", profile: dif}]
"""
    )
    assert refused(path, {"SHORT": "abc", "URL": "ftp://topsecret"}).splitlines() == [
        "gatepass.yaml:1: server.prot: is not a setting; did you mean port?",
        f"gatepass.yaml:3: credentials.corp.client_secret: {UNSET.format('MISSING')}",
        f"gatepass.yaml:3: credentials.corp.token_url: {PLAIN_HTTP_TO_HOST.format(block='credentials.corp')}",
        "gatepass.yaml:4: credentials.later.url: is missing",
        f"gatepass.yaml:4: credentials.later.preset: {LATER}",
        "gatepass.yaml:6: upstreams.chat.credential: 'crop' is not a name under credentials; did you mean corp?",
        "gatepass.yaml:6: upstreams.chat.dialect: 'azur' is not known here; did you mean azure?",
        "gatepass.yaml:7: upstreams.chat: is written twice (first in line 6): keep one",
        "gatepass.yaml:8: upstreams.other.network.ca_file: cannot be read: No such file or directory",
        "gatepass.yaml:8: upstreams.other.base_url: expects http://host… or https://host…",
        "gatepass.yaml:10: models.gpt.upstream: 'chatt' is not a name under upstreams; did you mean chat?",
        "gatepass.yaml:10: models.gpt.stream: 'atuo' is not known here; did you mean auto?",
        "gatepass.yaml:12: access.keys[0].profile: 'dif' is not a name under profiles; did you mean dify?",
        f"gatepass.yaml:12: access.keys[0].key: {SHORT_KEY}",
    ]


def test_a_file_that_is_fine_but_for_its_links_is_refused(write):
    assert refused(write(MINIMAL + "models: {a: {upstream: b}}\n")) == (
        "gatepass.yaml:2: models.a.upstream: 'b' is not a name under upstreams; there is chat"
    )


def test_references_work_in_texts_only_after_parsing(write):
    path = write(
        'upstreams: {chat: {base_url: "https://${HOST}/v1", credential: "${WHICH}"}}\n'
        'credentials: {corp: {type: static, token: "${T}"}}\n'
        'models: {"${HOST}": {upstream: chat, name: "$$x"}}\n'
    )
    loaded = load(path, {"HOST": "llm.example", "T": "a: [b]\n", "WHICH": "corp"})
    token = loaded.config.credentials["corp"]
    assert isinstance(token, StaticCredential)
    assert token.token.reveal() == "a: [b]\n"
    assert loaded.config.upstreams["chat"].base_url == "https://llm.example/v1"
    assert loaded.config.models["${HOST}"].name == "$x"
    assert loaded.origin(("credentials", "corp", "token")).endswith("gatepass.yaml:2, environment T")
    assert refused(write(MINIMAL + 'server: {port: "${P}"}\n'), {"P": "80"}) == (
        "gatepass.yaml:2: server.port: expects a whole number, but a reference is always a text: write the value itself"
    )


def test_a_rotated_file_arrives_without_a_restart(write, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    loaded = load(write(MINIMAL + f"credentials: {{c: {{type: static, token: '${{file:{secret}}}'}}}}\n"), {})
    token = loaded.config.credentials["c"]
    assert isinstance(token, StaticCredential)
    secret.write_text("two\n")
    assert token.token.reveal() == "two"
    assert loaded.origin(("credentials", "c", "token")).endswith(f"gatepass.yaml:2, file {secret}")


def test_unused_variables_next_to_a_file_are_reported(write):
    path = write('upstreams: {chat: {base_url: "https://${GATEPASS_MINE}/v1"}}\n')
    environment = {
        "GATEPASS_MINE": "h",
        "GATEPASS_TOKEN": "topsecret",
        "GATEPASS_HOST": "127.0.0.1",
        "GATEPASS_SERVICE_HOST": "x",
        "GATEPASS_PORT": "tcp://10.0.0.1:80",
    }
    assert load(path, environment).warnings == (
        f"GATEPASS_TOKEN is set and has no effect: the file {path} is the configuration",
    )


PROXY_REMEDY = 'write network: {proxy: "${HTTPS_PROXY}"} at the top level, or set GATEPASS_PROXY'


def test_a_proxy_that_no_hop_uses_is_pointed_out(write):
    environment = {"HTTPS_PROXY": "http://user:topsecret@p:1", "http_proxy": "http://p:1", "ALL_PROXY": ""}
    assert load(write(MINIMAL), environment).warnings == (
        f"HTTPS_PROXY and http_proxy are set and not used: {PROXY_REMEDY}",
    )
    three = {**environment, "ALL_PROXY": "x"}
    assert load(write(MINIMAL), three).warnings[0].startswith("HTTPS_PROXY, ALL_PROXY and http_proxy are set")
    used = "upstreams: {chat: {base_url: 'https://x', network: {proxy: '${http_proxy}'}}}\n"
    assert load(write(used), environment).warnings == ()


def test_the_environment_alone_is_a_configuration():
    environment = {
        "GATEPASS_UPSTREAM_URL": "https://llm.example/v1",
        "GATEPASS_TOKEN": "to$ken",
        "GATEPASS_KEYS": "0123456789abcdef",
        "GATEPASS_HOST": "0.0.0.0",
        "GATEPASS_PORT": "9000",
        "HTTPS_PROXY": "x",
    }
    loaded = load(None, environment)
    token = loaded.config.credentials["token"]
    assert isinstance(token, StaticCredential)
    assert token.token.reveal() == "to$ken"
    assert (loaded.config.server.host, loaded.config.server.port) == ("0.0.0.0", 9000)
    assert loaded.origin(("credentials", "token", "token")) == "environment GATEPASS_TOKEN"
    assert loaded.warnings == (f"HTTPS_PROXY is set and not used: {PROXY_REMEDY}",)


def test_the_environment_alone_is_checked_like_a_file():
    environment = {
        "GATEPASS_UPSTREAM_URL": "http://llm.example/v1",
        "GATEPASS_TOKEN_FILE": "/nowhere",
        "GATEPASS_KEYS": "short",
        "GATEPASS_HOTS": "x",
    }
    plain_http = PLAIN_HTTP_TO_HOST.format(block="upstreams.chat")
    assert refused(None, environment).splitlines() == [
        "environment GATEPASS_HOTS: is not a variable of gatepass; did you mean GATEPASS_HOST?",
        f"environment GATEPASS_KEYS: access.keys[0].key: {SHORT_KEY}",
        f"environment GATEPASS_TOKEN_FILE: credentials.token.token: {AWAY}",
        f"environment GATEPASS_UPSTREAM_URL: upstreams.chat.base_url: {plain_http}",
    ]


EVERYWHERE = """\
server: {host: "${S}", base_path: "${S}", port: "${S}", nothing: "${S}"}
limits: "${S}"
credentials:
  a: {type: oauth2, token_url: "${S}", client_id: "${S}", client_auth: "${S}", extra: {x: "${S}"}, timeout_s: "${S}"}
  b: {type: http_json, url: "${S}", method: "${S}", json: {x: "${S}"}, form: "${S}", reply: {unit: "${S}"}}
  c: {type: "${S}"}
  d: "${S}"
upstreams:
  u: {base_url: "${S}", dialect: "${S}", credential: "${S}", network: {proxy: "${S}", ca_file: "${S}"}}
  v: {base_url: "https://x", forward_headers: ["${S}"], repeat_stale: "${S}", timeouts: {idle_s: "${S}"}}
operations: {chat: {upstream: "${S}"}, embeddings: "${S}"}
models: {m: {upstream: "${S}", targets: [{upstream: "${S}"}]}, n: "${S}"}
access: {keys: [{name: "${S}", hash: "${S}"}, {name: "${S}", key: "${S}"}, "${S}"], metrics_open: "${S}"}
log: {format: "${S}", level: "${S}"}
"""


@settings(database=None)
@given(
    st.sampled_from(["", "https://", "http://u:", "https://h:", "https://[", "sha256:", "${", "/"]),
    st.integers(0, 10**6),
)
def test_no_error_quotes_the_value_of_a_reference(tmp_path_factory, before, number):
    secret = f"{before}s3cr3t{number}"
    path = tmp_path_factory.mktemp("leak") / "gatepass.yaml"
    path.write_text(EVERYWHERE)
    with pytest.raises(ConfigError) as caught:
        load(str(path), {"S": secret})
    assert len(caught.value.problems) > 25
    assert "s3cr3t" not in str(caught.value).lower()
    assert "s3cr3t" not in repr(caught.value).lower()


GLOB_NEVER_USED = ["*", "set-cookie", "Authorization", "x-ms-token-*", "X-MS-Token-AAD", "x-gatepass-hop"]


@pytest.mark.parametrize("name", GLOB_NEVER_USED)
def test_a_response_header_that_may_hold_a_credential_is_not_forwarded(write, name):
    path = write(f"upstreams: {{chat: {{base_url: 'https://llm.example/v1', forward_response_headers: ['{name}']}}}}\n")
    with pytest.raises(ConfigError, match=r"forward_response_headers(\[0\])?: "):
        load(path, {})
