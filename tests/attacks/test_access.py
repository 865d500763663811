"""Access checks: the callers that may come in, and the names in a request. The access check reads the same members as
the upstream."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
from msgspec.structs import replace
from starlette.testclient import TestClient

from gatepass import Config, create_app
from gatepass.auth.authenticator import Authenticator
from gatepass.auth.caller import Caller
from gatepass.auth.model_access import (
    DESTINATIONS,
    FAMILIES,
    MODELS,
    NESTED,
    check_body_access,
    check_part_access,
    may_use,
)
from gatepass.errors import ForbiddenHost, ForbiddenOrigin, GatepassError
from gatepass.json_body import TopLevel
from gatepass.protocols.request import read_body
from gatepass.proxy.uploads import Form
from gatepass.server.pages import PATHS
from gatepass.types import ClientRequest
from tests.attacks.conftest import Attack

CONFIG = Config.model_validate({"upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}}})
LIMITED = Caller("bot", "bot", models=["gpt-a"])
SECRET = "gpt-secret"

SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda name: f"\\u{ord(name[0]):04x}{name[1:]}",
    lambda name: name.replace("s", "\u017f").replace("k", "\u212a"),
)
"""Names of a member that some reader takes for `name`: other case, escapes, letters that fold."""


def routed_by(body: bytes) -> bool:
    try:
        read_body(body)
    except GatepassError:
        return False
    return True


TWO_READINGS = (
    b'{"model":"gpt-a","Model":"gpt-secret"}',
    b'{"model":"gpt-a","model":"gpt-secret"}',
    b'{"model":"gpt-a","\\u004dodel":"gpt-secret"}',
    b'{"model":"gpt-a","\\u006dodel":"gpt-secret"}',
    '{"model":"gpt-a","\u017ftream":true}'.encode(),
    b'{"model":"gpt-a","\\u017ftream":true}',
    b'{"MODEL":"gpt-secret"}',
    b'{"model":"gpt-a","N":7}',
)


@pytest.mark.attack("access: two readings of a member")
def test_a_body_that_reads_differently_is_refused(attack: Attack) -> None:
    for body in TWO_READINGS:
        attack.check(not routed_by(body), body)


DESTINATION_NAMES = [*sorted(DESTINATIONS), *(f"{family}_{rest}" for family in FAMILIES for rest in ("x", "api_key"))]


def naming() -> Iterator[str]:
    """Members beside the model `gpt-a` that name SECRET, another server or a credential."""
    for spell in SPELLINGS:
        for name in map(spell, sorted(MODELS)):
            yield f'"{name}":"{SECRET}"'
            yield f'"{name}":["gpt-a",["{SECRET}"]]'
            yield f'"{name}":[{{"model":"gpt-a","{spell("model")}":"{SECRET}"}}]'
            yield f'"{name}":[{{"gpt-a":["gpt-a","{SECRET}"]}}]'
        yield f'"{spell("tools")}":[{{"type":"image_generation","{spell("model")}":"{SECRET}"}}]'
        for name in map(spell, sorted(DESTINATIONS)):
            yield f'"{spell("tools")}":[{{"type":"function"}},{{"type":"mcp","{name}":"x"}}]'
        for name in map(spell, DESTINATION_NAMES):
            yield from (f'"{name}":{value}' for value in ('"x"', "{}", "null"))


def permitted(body: bytes, caller: Caller = LIMITED) -> bool:
    try:
        check_body_access(caller, read_body(body))
    except GatepassError:
        return False
    return True


NAMING = (
    b'{"tools":[{"model":"gpt-secret"}]}',
    b'{"TOOLS":[{"Model":"gpt-secret"}]}',
    b'{"model":"gpt-a","tools":[1,"{",{"type":"x"},{"model":"gpt-secret"}]}',
    b'{"model":"gpt-a","tools":[{"mod\\u0065l":"gpt-secret"}]}',
    b'{"model":"gpt-a","tools":[{"MODEL":"gpt-secret"}],"x":"' + b"x" * 100_000 + b'"}',
    b'{"model":"gpt-a","fallbacks":["gpt-secret"]}',
    b'{"model":"gpt-a","context_window_fallback_dict":{"gpt-a":"gpt-secret"}}',
    b'{"model":"gpt-a","openai_api_base":"https://evil.example"}',
    b'{"model":"gpt-a","fallbacks":[{"model":"gpt-a","fallbacks":["gpt-secret"]}]}',
    b'{"model":"gpt-a","fallbacks":[{"model":"gpt-a","api_base":"https://evil.example"}]}',
    b'{"model":"gpt-a","models":{"x":{"y":["gpt-secret"]}}}',
    b'{"model":"gpt-a","tools":[{"model":"gpt-a","model":"gpt-secret"}]}',
    b'{"model":"gpt-a","extra_body":{"model":"gpt-secret"}}',
    b'{"model":"gpt-a","API_KEY":"k"}',
    b'{"model":"gpt-a","apiBase":"https://evil.example"}',
    b'{"model":"gpt-a","base-url":"https://evil.example"}',
    b'{"model":"gpt-a","fallbackModels":["gpt-secret"]}',
    b'{"model":"gpt-a","extraBody":{"Model-Name":"gpt-secret"}}',
    '{"model":"gpt-a","ap\u0131_base":"https://evil.example"}'.encode(),
    b'{"model":"gpt-a","providerOptions":{"gateway":{"models":["gpt-secret"]}}}',
    b'{"model":"gpt-a","provider_options":{"x":{},"gateway":{"byok":{"openai":[{"apiKey":"k"}]}}}}',
    b'{"model":"gpt-a","fallbacks":[{"gpt-a":["gpt-secret"],"model":"gpt-a"}]}',
    b'{"model":"gpt-a","fallbacks":[{"*":["gpt-a","gpt-secret"],"stop":["x"],"model":"gpt-a"}]}',
    b'{"model":"gpt-a","dataSources":[{"type":"azure_search","parameters":{"endpoint":"https://evil.example"}}]}',
    b'{"model":"gpt-a","fallbacks":["gpt-a, gpt-secret"]}',
    b'{"model":"gpt-a","tools":[{"type":"mcp","server_label":"x","server_url":"https://evil.example"}]}',
    b'{"model":"gpt-a","tools":[{"type":"mcp","server_label":"x","serverUrl":"https://evil.example"}]}',
    b'{"model":"gpt-a","tools":[{"type":"function"},{"type":"mcp","connector_id":"connector_gmail"}]}',
    b'{"model":"gpt-a","tools":[{"type":"mcp","tunnel_id":"t"}]}',
    b'{"model":"gpt-a","tools":[{"type":"mcp","server_label":"x","authorization":"ya29"}]}',
    b'{"model":"gpt-a","tools":[{"type":"mcp","server_label":"x","headers":{"a":"b"}}]}',
    b'{"model":"gpt-a","extra_body":{"tools":[{"type":"mcp","server_url":"https://evil.example"}]}}',
    b'{"model":"gpt-a","model_id":"arn:aws:bedrock:eu-west-1::foundation-model/gpt-secret"}',
    b'{"model":"gpt-a","prompt_id":"stored"}',
    b'{"model":"gpt-a","lora_path":["gpt-secret"]}',
    b'{"model":"gpt-a","langsmith_base_url":"https://evil.example"}',
    b'{"model":"gpt-a","extra_body":{"langsmith_project":"os.environ/OPENAI_API_KEY"}}',
    b'{"model":"gpt-a","Posthog_API_url":"https://evil.example"}',
    b'{"model":"gpt-a","oci_key":"k"}',
    b'{"model":"gpt-a","tensorzero::variant_name":"gpt-secret"}',
    b'{"model":"gpt-a","kv_transfer_params":{"remote_host":"10.0.0.5"}}',
    b'{"model":"gpt-a","provider_specific_header":{"custom_llm_provider":"openai","extra_headers":{}}}',
    b'{"model":"gpt-a","mcp_servers":[{"type":"url","url":"https://evil.example"}]}',
    b'{"model":"gpt-a","input":["x",{"type":"additional_tools","tools":[{"type":"mcp","server_url":"https://evil"}]}]}',
    b'{"model":"gpt-a","input":[{"type":"tool_search_output","Tools":[{"type":"mcp","connector_id":"c"}]}]}',
    b'{"model":"gpt-a","Input":[{"tools":[{"type":"image_generation","model":"gpt-secret"}]}]}',
    # a namespace of the Responses API
    b'{"model":"gpt-a","tools":[{"type":"namespace","tools":[{"type":"mcp","server_url":"https://evil"}]}]}',
    b'{"model":"gpt-a","tools":[{"type":"namespace","Tools":[{"type":"image_generation","model":"gpt-secret"}]}]}',
    b'{"model":"gpt-a","input":[{"tools":[{"type":"namespace","tools":[{"type":"mcp","connector_id":"c"}]}]}]}',
    b'{"model":"gpt-a","x":"%b","tools":[{"tools":[{"tools":[{"server_url":"h"}]}]}]}' % (b"x" * 100_000),
    # a long name in escapes begins where the part of the body before it ends
    b'{"model":"gpt-a","x":"%b","%b":"h","y":"%b"}'
    % (b"x" * 232, b"".join(b"\\u%04x" % char for char in b"aws_bedrock_runtime_endpoint"), b"y" * 8_000),
    b'{"model":"gpt-a","x":"%b","fallbacks":["gpt-secret"]}' % (b'\\"' * 200_000),
    # OpenRouter's plugins, tools and presets
    b'{"model":"gpt-a","plugins":[{"id":"web"},{"id":"fusion","model":"b"}]}',
    b'{"model":"gpt-a","Plugins":[{"id":"fusion","analysisModels":["b"]}]}',
    b'{"model":"gpt-a","plugins":[{"id":"auto-router","allowed_models":["openai/*"]}]}',
    b'{"model":"gpt-a","plugins":[{"id":"x","api_key":"k"}]}',
    b'{"model":"gpt-a","preset":"translator"}',
    b'{"model":"gpt-a","fallback":"b"}',
    b'{"model":"gpt-a","extra_body":{"plugins":[{"id":"fusion","m\\u006fdel":"b"}]}}',
    b'{"model":"gpt-a","tools":[{"type":"openrouter:fusion","parameters":{"analysis_models":["b"]}}]}',
    b'{"model":"gpt-a","tools":[{"type":"openrouter:fusion","Parameters":{"Model":"b"}}]}',
    b'{"model":"gpt-a","input":[{"type":"additional_tools","tools":[{"type":"f","parameters":{"model":"b"}}]}]}',
    b'{"model":"gpt-a","x":"%b","tools":[{"mod\\u0065l":"gpt-secret"}],"y":"%b"}' % (b'\\"' * 200_000, b"y" * 400_000),
)


@pytest.mark.attack("access: models named elsewhere")
@pytest.mark.parametrize(
    "inside", ["%s", '"extra_body":{%s}', '"Provider_options":{%s}', '"x":"' + "é" * 3000 + '",%s']
)
def test_a_limited_key_reaches_no_other_model_or_server(attack: Attack, inside: str) -> None:
    for member in naming():
        body = f'{{"model":"gpt-a",{inside % member}}}'.encode()
        with attack.on_loop():
            passes = permitted(body)
        attack.check(not passes, body)
        assert permitted(body, replace(LIMITED, models=None))


@pytest.mark.attack("access: models named elsewhere")
def test_kept_bodies_name_no_other_model_or_server(attack: Attack) -> None:
    for body in NAMING:
        attack.check(not permitted(body), body)


@pytest.mark.attack("access: models named elsewhere")
@pytest.mark.parametrize(
    "inputs",
    [
        b',"input":[%b]' % b",".join([b'{"tools":[]}'] * 4) * 990,
        b',"plugins":[{"input":[%b]}]' % b",".join([b'{"tools":[{}]}'] * 15_000),
        b',"input":[%b]' % b",".join([b'{"tools":[{}]}'] * 15_000),
        b',"input":[1,%b]' % b",".join([b'{"tools":[]}'] * 15_000),
    ],
    ids=["repeated", "plugins", "items", "mixed"],
)
def test_many_tools_of_items_do_not_hold_the_loop(attack: Attack, inputs: bytes) -> None:
    body = b'{"model":"gpt-a","models":["gpt-a"]%b,"x":"%b"}' % (inputs, rb"\"" * 10_000)
    with attack.on_loop(), pytest.raises(GatepassError):
        check_body_access(LIMITED, TopLevel(body))


@pytest.mark.attack("access: models named elsewhere")
@pytest.mark.parametrize(
    "models",
    [
        *(b"[%b]" % b",".join([one] * 40_000) for one in (b'"gpt-a"', b"1")),
        *(b"[%b]" % b",".join(b'"gpt-%d"' % at for at in range(25_000)), b"1%b" % (b',"engine":"gpt-a"' * 15_000)),
        b'{"model":"gpt-a","x":[%b]}' % b",".join([b"1"] * 100_000),
    ],
)
def test_many_models_of_a_body_do_not_hold_the_loop(attack: Attack, models: bytes) -> None:
    caller = Caller("bot", "bot", models=[*(f"x{at}-*" for at in range(10)), "gpt-*"])
    with attack.on_loop(), pytest.raises(GatepassError):
        check_body_access(caller, TopLevel(b'{"model":"gpt-a","models":%b}' % models))


FORM_NAMES = [*sorted(MODELS | NESTED), *DESTINATION_NAMES]
KEPT_PARTS = (
    "api_base",
    "API_KEY",
    "extra_body[api_base]",
    "litellm_params.api_base",
    "base%5Furl",
    "models[]",
    " api_key",
)


def reads_form(name: str, caller: Caller = LIMITED) -> bool:
    head = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    form = f"{head.format('model', 'gpt-a')}{head.format(name, 'x')}--b--\r\n".encode()
    try:
        asyncio.run(Form.read(form, b"b", partial(check_part_access, caller)))
    except GatepassError:
        return False
    return True


PART_FORMS = ("{}", "{}[]", "{}[x]", "extra_body[{}]", "x.{}", "x[y][{}]", " {} ")


@pytest.mark.attack("access: parts of forms")
@pytest.mark.parametrize("form", PART_FORMS)
def test_a_limited_key_names_no_other_model_or_server_in_a_form(attack: Attack, form: str) -> None:
    for name in FORM_NAMES:
        for spelled in (name, name.upper(), f"%{ord(name[0]):02x}{name[1:]}"):
            attack.check(not reads_form(form.format(spelled)), (form, spelled))


@pytest.mark.attack("access: parts of forms")
def test_kept_parts_of_forms_name_no_other_server(attack: Attack) -> None:
    for name in KEPT_PARTS:
        attack.check(not reads_form(name), name)


def test_a_form_of_a_key_without_models_and_usual_parts_pass() -> None:
    assert reads_form("api_base", replace(LIMITED, models=None))
    assert all(map(reads_form, ("file", "language", "timestamp_granularities[]", "response_format", "prompt")))


@pytest.mark.parametrize("model", ["gpt-a,other", "gpt-a, other", "other,gpt-a", "gpt-a,", "gpt-a,,gpt-b"])
def test_a_glob_covers_each_name_of_a_list(model: str) -> None:
    caller = replace(LIMITED, models=["gpt-*", "x,y"])
    assert not may_use(caller, model)
    assert may_use(caller, "gpt-a,gpt-b")
    assert may_use(caller, "x,y")


@pytest.mark.parametrize(
    "members",
    [
        '"models":["gpt-a"],"fallbacks":[{"model":"gpt-a"},{"gpt-a":["gpt-a"]}]',
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"model":{"enum":["b"]}}}}}]',
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"server_url":{},"headers":{}}}}}]',
        '"tools":[{"type":"function","name":"f","parameters":{"properties":{"connector_id":{},"authorization":{}}}}]',
        '"input":[{"tools":[{"type":"function","name":"f","parameters":{"properties":{"server_url":{},"model":{}}}}]}]',
        '"tools":[],"input":[{"role":"user","content":"x","server_url":"y"},[{"server_url":"z"}],"server_url",1]',
        '"tools":[{"name":"f","input_schema":{"properties":{"api_key":{},"endpoint":{}}}},{"type":"web_search"}]',
        '"messages":[{"role":"user","content":"api_base: x, \\"api_key\\""}],"fallbacks":null,"tools":null',
        '"metadata":{"api_key":"mine","models":["b"]},"extra_body":{"top_k":1}',
        '"aws":1,"awsome_x":1,"model_id":"gpt-a","prompt_id":null,"logit_bias":{"aws_x":1}',
        '"fallbacks":[{"model":"gpt-a","stop":["x"],"messages":[{"role":"user","content":"x"}]},"gpt-a"]',
        '"provider_options":{"gateway":{"models":["gpt-a"],"order":["azure"]},"openai":{"user":"u"},"x":1}',
        '"plugins":[{"id":"web","max_results":3},{"id":"fusion","model":"gpt-a","analysis_models":["gpt-a"]}]',
        '"plugins":{"model":"b"},"tools":[{"type":"openrouter:fusion","parameters":{"model":"gpt-a","max_tool_calls":2}}]',
        '"plugins":["model"],"tools":[{"name":"f","parameters":{"properties":{"models":{}},"required":["model"]}}]',
    ],
)
def test_limited_key_may_name_its_own_models_and_values_that_name_no_model(members: str) -> None:
    assert permitted(f'{{"model":"gpt-a",{members}}}'.encode())


LOCAL_HOSTS = ["localhost:8080", "127.0.0.1", "[::1]:8080"]
FOREIGN_HOSTS = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8080",
    "10.0.0.5",
    "",
    "localhost@evil.example",
]
LOCAL_ORIGINS = ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173"]
FOREIGN_ORIGINS = [
    *("null", "https://evil.example", "moz-extension://localhost", "chrome-extension://127.0.0.1", "file://localhost"),
    *(
        "http://localhost@evil.example",
        "http://evil.example:80@localhost",
        "://localhost",
        "localhost",
        "HTTP://localhost",
    ),
]
OWN_SITES, FOREIGN_SITES = ["none", "same-origin"], ["cross-site", "same-site", "Cross-Site", "future-site"]


Head = list[tuple[bytes, bytes]]


def heads() -> Iterator[tuple[Head, bool]]:
    """The heads of a browser's requests, and whether a foreign page has sent them or a foreign name is in them."""
    hosts = [[], *([host] for host in (*LOCAL_HOSTS, *FOREIGN_HOSTS)), LOCAL_HOSTS[:2], [LOCAL_HOSTS[0], ""]]
    origins = [[], *([one] for one in (*LOCAL_ORIGINS, *FOREIGN_ORIGINS)), [LOCAL_ORIGINS[0], FOREIGN_ORIGINS[0]]]
    sites = [[], *([one] for one in (*OWN_SITES, *FOREIGN_SITES)), [OWN_SITES[0], FOREIGN_SITES[0]]]
    for named in product(hosts, origins, sites):
        of_host, of_origin, of_site = named
        is_foreign = len(of_host) != 1 or of_host[0] in FOREIGN_HOSTS or not set(of_origin).isdisjoint(FOREIGN_ORIGINS)
        is_foreign = is_foreign or (not of_origin and not set(of_site).isdisjoint(FOREIGN_SITES))
        fields = zip((b"host", b"origin", b"sec-fetch-site"), named, strict=True)
        yield [(name, value.encode()) for name, values in fields for value in values], is_foreign


def answers(authenticator: Authenticator, headers: list[tuple[bytes, bytes]], peer: str = "127.0.0.1") -> bool:
    try:
        authenticator.check_without_key(
            ClientRequest("id", "GET", "/status", tuple(headers), peer, 0.0), from_anywhere=True
        )
    except (ForbiddenHost, ForbiddenOrigin):
        return False
    return True


@pytest.mark.attack("access: foreign pages without keys")
def test_a_foreign_page_gets_no_answer(attack: Attack) -> None:
    authenticator = Authenticator(CONFIG)
    for head, is_foreign in heads():
        attack.check(answers(authenticator, head) is not is_foreign, head)


def test_a_probe_names_this_machine_by_its_address() -> None:
    authenticator = Authenticator(CONFIG)
    assert answers(authenticator, [(b"host", b"10.0.0.5:8080")], peer="10.0.0.1")
    assert not answers(authenticator, [(b"host", b"10.0.0.5:8080")])
    assert not answers(authenticator, [(b"host", b"evil.example")], peer="10.0.0.1")


HEADS = [
    {"host": "evil.example"},
    {"host": "localhost", "origin": "moz-extension://localhost"},
    {"host": "localhost", "origin": "null"},
    {"host": "localhost", "sec-fetch-site": "cross-site"},
    {"host": "localhost", "sec-fetch-site": "same-site"},
]


@pytest.mark.attack("access: foreign pages without keys")
def test_no_page_answers_a_foreign_host_or_origin(attack: Attack) -> None:
    with TestClient(create_app(CONFIG), client=("127.0.0.1", 5000)) as client:
        for page in (*PATHS, "/v1/models", "/nowhere", "/v1/chat/completions"):
            assert client.get(page, headers={"host": "localhost"}).status_code != 403
            for headers in HEADS:
                answer = client.get(page, headers=headers)
                is_refused = answer.status_code == 403 and answer.json()["error"]["code"].startswith("forbidden_")
                attack.check(is_refused, (page, headers))
