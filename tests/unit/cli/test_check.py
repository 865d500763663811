import json
import re
import time
from functools import cache, partial

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.check import editor_schema
from gatepass.config.access import hash_key
from tests.jwt_signer import SigningKey
from tests.unit.cli.command_line import run_on


@pytest.fixture
def check(tmp_path):
    return partial(run_on, tmp_path / "f.yaml", "check")


def test_defaults_are_shown_on_demand_and_counted_in_the_last_line(check):
    some, every = check(), check("--all")
    assert "# default" not in some.stdout
    left_out = every.stdout.count("  # default\n")
    counted = "# valid: 2 upstreams, 0 credentials, 2 keys"
    assert some.stdout.splitlines()[-1] == f"{counted}; {left_out} defaults are left out, --all shows them"
    assert every.stdout.splitlines()[-1] == counted


SECRETS = """
credentials:
  a: {type: static, token: planted-1}
  b: {type: http_json, url: https://x/login, json: {app_id: bot, deep: [{appSecret: planted-2}], grant_type: key-word}}
  c: {type: oauth2, token_url: https://x/t, client_id: me, client_secret: planted-3, extra: {password: planted-4}}
  d: {type: exec, command: [mint], env: {API_KEY: planted-5, GOOGLE_APPLICATION_CREDENTIALS: /etc/gcp/key.json}}
  e: {type: static, token: "${TOKEN}"}
  f: {type: http_json, url: https://x/login, basic: {username: me, password: "a${TOKEN}"}, headers: {X-App: gatepass}}
  g: {type: http_json, url: https://x/l, headers: {x-portkey-provider: openai}, json: {key: /planted/8+==}}
network: {proxy: "http://p.example:3128", proxy_auth: "me:planted-6"}
upstreams: {chat: {base_url: "https://x/v1", headers: {X-Api-Key: planted-7, AI-Group: default}, query: {version: v1}}}
access: {keys: [{name: h, key: "${TOKEN}"}]}
"""
PLAIN = {
    "credentials.a.token": "A_TOKEN",
    "credentials.b.json.deep[0].appSecret": "B_JSON_DEEP_0_APPSECRET",
    "credentials.c.client_secret": "C_CLIENT_SECRET",
    "credentials.c.extra.password": "C_EXTRA_PASSWORD",
    "credentials.d.env.API_KEY": "D_ENV_API_KEY",
    "credentials.g.json.key": "G_JSON_KEY",
    "network.proxy_auth": "PROXY_AUTH",
    "upstreams.chat.headers.X-Api-Key": "CHAT_HEADERS_X_API_KEY",
}


def test_a_secret_in_plain_text_is_a_warning_with_the_reference_to_write(check, monkeypatch):
    monkeypatch.setenv("TOKEN", "t" * 24)
    result = check(text=SECRETS)
    assert (result.exit_code, "planted" in result.output) == (0, False)
    line = r'^warning: (\S+): is a secret in plain text.*: "\$\{file:\S+?\}" or "\$\{(\w+)\}"$'
    warned = re.findall(line, result.stderr, re.MULTILINE)
    assert dict(warned) == PLAIN


def test_a_secret_of_a_variable_is_no_warning(monkeypatch):
    variables = {"UPSTREAM_URL": "https://x/v1", "TOKEN": "t" * 24, "KEYS": "k" * 24, "PROXY": "http://me:pw@p:3128"}
    for name, value in variables.items():
        monkeypatch.setenv(f"GATEPASS_{name}", value)
    result = CliRunner().invoke(main, ["check"])
    assert (result.exit_code, "plain text" in result.output) == (0, False), result.output


@pytest.mark.parametrize("written", ["operations: []", "models: []", "mcp: []"])
@pytest.mark.parametrize("options", [(), ("--all",)])
def test_a_list_that_is_written_empty_is_set(check, written, options):
    keys = f"access:\n  keys:\n    - name: a\n      hash: sha256:{'1' * 64}\n      {written}\n"
    result = check(*options, text="upstreams: {chat: {base_url: 'https://x/v1'}}\n" + keys)
    assert result.exit_code == 0, result.output
    assert re.search(rf"\naccess\.keys\[0\]\.{re.escape(written)}  # \S*f\.yaml:6\n", result.stdout), result.stdout


@pytest.mark.parametrize(
    ("second", "protocols", "is_told"),
    [
        ("name: b", "[chat, responses]", True),
        ("name: b", "null", True),
        ("name: b, profile: plain", "null", True),
        ("name: b, profile: Plain", "null", True),
        ("name: b, profile: open_webui", "null", False),
        ("name: b, profile: ragflow", "null", False),
        ("name: b, operations: [chat]", "null", False),
        ("name: b", "[chat]", False),
        ("name: a", "null", False),
        ("name: b, role: viewer", "null", False),
    ],
)
def test_a_second_caller_closes_stored_responses(check, second, protocols, is_told):
    keys = f"access:\n  keys:\n  - {{name: a, hash: sha256:{'1' * 64}}}\n  - {{{second}, hash: sha256:{'2' * 64}}}\n"
    keys = keys.replace("name: a, hash", "name: a, role: caller, hash") if "viewer" in second else keys
    if found := re.search("(?:profile|operations): .*", second):
        keys = keys.replace("name: a, hash", f"name: a, {found[0]}, hash")
    result = check(text=f"upstreams: {{chat: {{base_url: 'https://x/v1', protocols: {protocols}}}}}\n" + keys)
    assert result.exit_code == 0, result.output
    told = "warning: access.keys[1]: with a second caller, stored responses (previous_response_id"
    assert (told in result.stderr) == is_told, result.stderr


CONTROLS = r"\x1b]0;x\x07\x9b31m\u202e\U000e0001"


def test_a_name_cannot_control_the_terminal_in_a_problem(check):
    result = check(text=f'upstreams: {{"{CONTROLS}": {{}}}}\n"{CONTROLS}": 5\n')
    lines = result.stderr.split("\n")
    assert (result.exit_code, result.stdout, len(lines)) == (2, "", 4)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "command", [("check",), ("check", "--route", f"m{CONTROLS}".encode().decode("unicode_escape"))]
)
def test_a_name_cannot_control_the_terminal(tmp_path, command):
    blocks = f'models: {{"m{CONTROLS}": {{upstream: chat, name: "n{CONTROLS}"}}}}\n'
    result = run_on(tmp_path / "f.yaml", *command, text="upstreams: {chat: {base_url: 'https://x/v1'}}\n" + blocks)
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert result.exit_code == 0


def test_json_lists_each_value_with_its_origin_and_the_warnings(check, tmp_path):
    result = check("--json", environment={"GATEPASS_PORT": "9", "HTTPS_PROXY": "http://p:1"})
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr, document["valid"]) == (0, "", True)
    assert {"setting": "server.port", "value": 9, "origin": "environment GATEPASS_PORT"} in document["settings"]
    assert all(setting["origin"] != "default" for setting in document["settings"])
    assert document["warnings"][0].startswith("HTTPS_PROXY is set")
    assert len(json.loads(check("--json", "--all").stdout)["settings"]) > len(document["settings"])


def test_the_program_of_an_exec_credential_is_not_run(tmp_path):
    """An argument with a reference is resolved, the program is not started."""
    ran, file = tmp_path / "ran", tmp_path / "f.yaml"
    text = (
        "upstreams: {a: {base_url: 'https://x/v1', credential: own}}\n"
        f"credentials: {{own: {{type: exec, command: ['/bin/touch', '{ran}', '${{WORD}}']}}}}\n"
    )
    for arguments in ((), ("--all",), ("--json",)):
        assert run_on(file, "check", *arguments, text=text, environment={"WORD": f"{ran}-too"}).exit_code == 0
    assert sorted(tmp_path.iterdir()) == [file]


schema = cache(editor_schema)


def test_the_schema_is_printed_as_json():
    result = CliRunner().invoke(main, ["check", "--schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == schema()


def test_the_schema_names_the_blocks_of_the_file():
    found = schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(found["properties"]) == {
        *("server", "limits", "credentials", "upstreams", "operations", "models", "access", "log", "store"),
        *("mcp", "network", "tracing"),
    }
    assert found["anyOf"] == [{"required": ["upstreams"]}, {"required": ["mcp"]}]
    assert found["additionalProperties"] is False
    assert "Numbers, true and false are never references" in found["description"]
    assert "json" in found["$defs"]["HttpJsonCredential"]["properties"]


def test_a_pattern_takes_a_reference_too():
    pattern = schema()["$defs"]["AccessKey"]["properties"]["hash"]["anyOf"][0]["pattern"]
    texts = ["sha256:" + "0" * 64, "${HASH}", "sha256:zz"]
    assert [bool(re.search(pattern, text)) for text in texts] == [True, True, False]


def test_texts_say_that_they_take_references_and_numbers_do_not():
    server = schema()["$defs"]["ServerConfig"]["properties"]
    assert server["host"]["description"].endswith("(references allowed)")
    assert "references" not in server["port"]["description"]
    assert "references" not in schema()["$defs"]["Log"]["properties"]["format"]["description"]


def test_every_setting_of_the_schema_is_described():
    bare = [
        f"{block}.{name}"
        for block, found in schema()["$defs"].items()
        for name, setting in found["properties"].items()
        if not setting.get("description")
    ]
    assert bare == []


def test_a_token_in_place_of_its_file_is_never_printed(check):
    token = SigningKey("a").sign({"iss": "https://login.example"})
    for sent in (token, f"Bearer {token}", token.rpartition(".")[0], f"{token}\n"):
        result = check(f"--token={sent}")
        assert result.exit_code == 2
        assert "that is a token, not a file: pipe it to `--token -`" in result.stderr
        assert token[:12] not in result.output


def test_an_empty_token_is_named_with_its_place(check, tmp_path):
    assert "--token: no token on stdin" in check("--token", "-").stderr
    assert "--token: no token on stdin" in check("--token", "-", stdin="\r\n".encode("utf-16")).stderr
    (file := tmp_path / "token").write_text("\n")
    result = check("--token", str(file))
    assert (result.exit_code, result.stderr) == (2, f"--token: no token in {file}\n")


JWT = """upstreams: {u: {base_url: 'https://x/v1'}}
access:
  jwt:
    - {issuer: https://login.example, audience: gatepass, jwks: "FILE", callers: [ROWS]}
"""
KEY = "gp-0123456789abcdef"
PEOPLE = "{claim: roles, contains: llm, group: people}"


@pytest.mark.parametrize(
    ("content", "is_valid"),
    [
        ('{"keys": []}', True),  # a file that is filled later
        ("", False),
        ("-----BEGIN PUBLIC KEY-----", False),
        ("[]", False),
        ('{"keys": {}}', False),
        ("[" * 60_000, False),
    ],
)
def test_a_file_that_is_no_key_set_is_not_valid(check, tmp_path, content, is_valid):
    (file := tmp_path / "keys.jwks").write_text(content)
    result = check(text=JWT.replace("FILE", str(file)).replace("ROWS", PEOPLE.replace("group", "name")))
    assert result.exit_code == (0 if is_valid else 2), result.output
    assert ("access.jwt[0].jwks: is no key set: expects a JSON object" in result.stderr) == (not is_valid)


def verdict(check, tmp_path, rows, **claims):
    """Run check --token with these rows on a good token with `claims`."""
    (keys := tmp_path / "keys.jwks").write_text(json.dumps({"keys": [SigningKey("a").jwk]}))
    text = JWT.replace("FILE", str(keys)).replace("ROWS", rows)
    known = {"iss": "https://login.example", "aud": "gatepass", "sub": "s", "exp": time.time() + 60}
    (file := tmp_path / "token").write_text(SigningKey("a").sign({**known, **claims}))
    text += "  groups: {people: {limits: {max_concurrent: 4}}}\nmcp: {s: {url: 'https://x/mcp'}}\n"
    return check("--token", str(file), text=text)


def test_a_token_is_told_what_its_row_allows(check, tmp_path):
    row = (
        "{claim: roles, contains: llm, name: people, group: people, models: ['gpt-*'], operations: [chat],"
        " mcp: {s: [find]}, profile: dify, weight: 3, limits: {requests: {minute: 9}}, name_from: mail}"
    )
    result = verdict(check, tmp_path, row, roles=["llm"], mail="a@corp.example")
    accepted, settings = result.stdout.splitlines()
    assert accepted.startswith("accepted by access.jwt[0].callers[0]; signature checked with ")
    assert settings == (
        "name people, user a@corp.example, role caller, models [gpt-*], operations [chat], mcp {s: [find]},"
        " profile dify, weight 3, group people, limits {requests: {minute: 9}}"
    )
    result = verdict(check, tmp_path, "{claim: scope, contains: llm, name: a, models: [], role: admin}", scope="llm x")
    assert result.stdout.splitlines()[1] == "name a, role admin, models []"


@pytest.mark.parametrize(
    ("claim", "claims", "escaped"),
    [
        ("kubernetes.io.namespace", {"kubernetes.io": {"namespace": "a"}}, "kubernetes.io: write kubernetes\\.io"),
        (
            "https://corp.example/roles",
            {"https://corp.example/roles": ["a"]},
            r"https://corp.example/roles: write https://corp\.example/roles",
        ),
        ("resource_access.my.app.roles", {"resource_access": {"my.app": {"roles": ["a"]}}}, r"my.app: write my\.app"),
        ("kubernetes.io.namespace", {"io.kubernetes": {}, "kubernetes": {"io": {}}, "a.b": 1}, None),
        ("x.y", {"x": ["y.z"]}, None),
    ],
)
def test_a_path_that_misses_a_name_with_dots_is_told_so(check, tmp_path, claim, claims, escaped):
    line = verdict(check, tmp_path, f"{{claim: '{claim}', equals: a, name: n}}", **claims).stdout.splitlines()[1]
    assert line.endswith("is absent" if escaped is None else f"is absent; the token has a claim {escaped}")


def test_a_key_in_place_of_a_token_is_named_as_a_key(check, tmp_path):
    (file := tmp_path / "key").write_text(f"{KEY}\n")
    access = f"access: {{keys: [{{name: app, hash: '{hash_key(KEY)}'}}]}}"
    keys = f"upstreams: {{u: {{base_url: 'https://x/v1'}}}}\n{access}"
    result = check("--token", str(file), text=keys)
    assert (result.exit_code, result.stderr) == (
        2,
        "--token: that is an API key of 'app', which needs no row of access.jwt\n",
    )
    assert "--token and --route exclude each other" in check("--token", str(file), "--route", "m", text=keys).stderr


@pytest.mark.parametrize(
    ("rows", "warned"),
    [
        (["claim: r, contains: a", "claim: r, contains: a"], [1]),
        (
            ["claim: r, equals: [a, b]", "claim: r, equals: a", "claim: r, equals: [b, c]", "claim: r, equals: [a, c]"],
            [1, 3],
        ),
        (["claim: r, contains: a", "claim: s, contains: a", "claim: r, equals: a", "claim: r, contains: b"], []),
    ],
)
def test_a_row_that_an_earlier_one_hides_is_warned_about(check, rows, warned):
    text = JWT.replace('jwks: "FILE", ', "").replace("ROWS", ", ".join(f"{{{row}, name: n}}" for row in rows))
    result = check(text=text)
    assert result.exit_code == 0, result.output
    found = re.findall(
        r"access.jwt\[0\].callers\[(\d)\]: is never used: a row before it has the same claim", result.stderr
    )
    assert [*map(int, found)] == warned


@pytest.mark.parametrize(
    ("claim", "written"),
    [
        ("https://corp.example/roles", r"https://corp\.example/roles"),
        (r"https://a\.corp.example/v1/roles.x", r"https://a\.corp\.example/v1/roles.x"),
        (r"https://corp\.example/roles", None),
        ("realm_access.roles", None),
        ("https://corp/roles.x", None),
    ],
)
def test_a_url_as_a_claim_whose_dots_are_levels_is_warned_about(check, claim, written):
    row = f"{{claim: '{claim}', contains: a, name: n, name_from: '{claim}'}}"
    result = check(text=JWT.replace('jwks: "FILE", ', "").replace("ROWS", row))
    assert result.exit_code == 0, result.output
    said = [] if written is None else [f"access.jwt[0].callers[0].{one}: a dot" for one in ("claim", "name_from")]
    assert [one for one in result.stderr.split("warning: ") if "a dot" in one and not one.startswith(tuple(said))] == []
    assert result.stderr.count(f"write {written}\n") == len(said)


def test_a_token_for_a_configuration_without_tokens_is_told_so(check):
    result = check("--token", "-", stdin=SigningKey("a").sign({"iss": "https://login.example"}))
    assert (result.exit_code, result.stderr) == (2, "--token: access.jwt is empty, so gatepass accepts no tokens\n")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_token_in_the_encoding_of_a_pipe_of_windows_is_read(check, tmp_path, encoding):
    (keys := tmp_path / "keys.jwks").write_text(json.dumps({"keys": [SigningKey("a").jwk]}))
    text = JWT.replace("FILE", str(keys)).replace("ROWS", PEOPLE.replace("group", "name"))
    known = {"iss": "https://login.example", "aud": "gatepass", "sub": "s", "exp": time.time() + 60, "roles": "llm"}
    sent = f"{SigningKey('a').sign(known)}\r\n".encode(encoding)
    assert "accepted by access.jwt[0].callers[0]" in check("--token", "-", text=text, stdin=sent).stdout
    if encoding == "utf-8-sig":
        (file := tmp_path / "token").write_bytes(sent)
        assert "accepted by access.jwt[0].callers[0]" in check("--token", str(file), text=text).stdout


def test_a_token_without_a_row_is_told_why_each_does_not_fit(check, tmp_path):
    rows = ", ".join(
        f"{{{row}, name: people}}"
        for row in (
            *("claim: roles, equals: [llm, admin]", "claim: roles, contains: llm", "claim: realm.roles, contains: llm"),
            *("claim: azp, equals: web", "claim: 'kubernetes\\.io.namespace', equals: a"),
        )
    )
    claims = {"roles": ["a", "b"], "azp": "null\x1b", "realm": "x", "kubernetes.io": {"namespace": 5}}
    result = verdict(check, tmp_path, rows, **claims)
    assert result.exit_code == 1
    refused, *lines = result.stdout.splitlines()
    assert refused.startswith("refused: 403 no_caller_row: ")
    assert lines == [
        'callers[0]: roles has to be the text llm or admin, is ["a", "b"]; for a list, write contains',
        'callers[1]: roles has to contain llm, is ["a", "b"]',
        "callers[2]: realm.roles has to contain llm, is absent",
        'callers[3]: azp has to be the text web, is "null\\u001b"',
        "callers[4]: kubernetes\\.io.namespace has to be the text a, is 5",
    ]
    assert "callers[" not in verdict(check, tmp_path, rows, aud="other").stdout


def test_a_text_that_is_not_read_as_words_is_told_so(check, tmp_path):
    rows = ", ".join(f"{{claim: {claim}, contains: llm-admin, name: n}}" for claim in ("roles", "x.groups", "scope"))
    claims = {"roles": "Project llm-admin", "x": {"groups": "a llm-admin"}, "scope": "llm-admins"}
    refused, *lines = verdict(check, tmp_path, rows, **claims).stdout.splitlines()
    why = "is one text; only `scope` and `scp` are read as words."
    assert f"The claim `roles` {why} Let the issuer write a list" in refused
    assert lines == [
        f'callers[0]: roles has to contain llm-admin, is "Project llm-admin". The claim `roles` {why}',
        f'callers[1]: x.groups has to contain llm-admin, is "a llm-admin". The claim `x.groups` {why}',
        'callers[2]: scope has to contain llm-admin, is "llm-admins"',
    ]


TENANT = "11111111-2222-3333-4444-555555555555"
V1, V2 = f"https://sts.windows.net/{TENANT}/", f"https://login.microsoftonline.com/{TENANT}/v2.0"


@pytest.mark.parametrize(
    ("issuers", "is_warned"),
    [
        ([V2], False),
        ([V1, V2], False),
        ([V2, V1], False),
        ([V2, V1.replace("5", "6")], True),
        (["https://a.example", "https://b.example"], True),
        ([V2, V1, "https://b.example"], True),
    ],
)
def test_issuers_of_one_entry_that_stay_apart_are_told(check, issuers, is_warned):
    text = JWT.replace('jwks: "FILE", ', "").replace("ROWS", PEOPLE.replace("group", "name"))
    result = check(text=text.replace("https://login.example", f"[{', '.join(issuers)}]", 1))
    assert result.exit_code == 0, result.output
    assert ("access.jwt[0].issuer: the same sub of two of its issuers is two callers" in result.stderr) == is_warned
