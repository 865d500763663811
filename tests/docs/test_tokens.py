"""Each recipe of docs/tokens.md loads unchanged, and fetches a token that its upstream accepts.

All host names resolve to servers of this test, with certificates for those names. So the recipe runs with its own
hosts, as `gatepass doctor` would run it.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx2
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.hashes import SHA256
from docs.symptom_table import SECTIONS
from ruamel.yaml import YAML

from gatepass.cli import COMMANDS
from gatepass.cli.check import plain_secrets
from gatepass.cli.steps import diagnose
from gatepass.config.credential.kinds import KINDS
from gatepass.config.load import load
from tests.docs.blocks import blocks
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.unit.tokens import keys

TEXT = (Path(__file__).parents[2] / "docs/tokens.md").read_text()
RECIPES = {
    heading: block
    for heading, section in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    for block in blocks(section, "yaml")
}
MACHINE = ("/run/secrets/", "/var/run/secrets/", "/var/lib/gatepass/", "/usr/local/bin/", "/opt/vendor/bin/")
"""Folders of a machine for which the test has its own."""

TOKEN = "the-token-of-the-recipe"
SECRET = "a-long-secret-of-32-characters-xx"
MINTED = {"access_token": TOKEN, "expires_in": 300, "token_type": "Bearer"}
TENANT, CLIENT = "TENANT", "66666666-7777-8888-9999-000000000000"
GRANT = "client_credentials"
UPSTREAM = "llm.corp.example"

Asked = Callable[[Received], bytes]


def form(request: Received) -> dict[str, str]:
    assert request.header("content-type") == "application/x-www-form-urlencoded"
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))


def basic(request: Received) -> str:
    scheme, _, value = (request.header("authorization") or "").partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(value).decode()


def signed(assertion: str, key: str, algorithm: str, audience: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(assertion, key, [algorithm], audience=audience)
    return claims


# --- the request that each issuer expects, and its reply -----------------------------------------------------------


def granted(*forms: Mapping[str, str], client: str = "", target: str = "", **members: Any) -> Asked:
    """Return a token if the request has one of `forms`, and nothing but `client` in its `authorization`."""

    def answer(request: Received) -> bytes:
        assert (basic(request) if client else request.header("authorization")) == (client or None)
        assert target in ("", request.target)
        assert form(request) in forms
        return reply({**MINTED, **members})

    return answer


OWN = {"grant_type": GRANT}
GATEPASS = {"client_id": "gatepass"}
IN_A_HEADER = granted(OWN, {**OWN, "scope": "llm.read llm.write"}, client=f"gatepass:{SECRET}")
ASSERTED = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}


def assertion_by_key(request: Received) -> bytes:
    fields = form(request)
    assert fields["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assertion = fields["client_assertion"]
    claims = signed(assertion, keys.public_pem("rsa"), "RS256", "https://sso.corp.example/oauth/token")
    assert (claims["iss"], claims["sub"]) == ("gatepass", "gatepass")
    assert jwt.get_unverified_header(assertion)["kid"] == "2026-01"
    return reply(MINTED)


EXCHANGED = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": "the-first-token",
    "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "audience": "llm",
}


def signed_grant(request: Received) -> bytes:
    fields = form(request)
    assert (fields["grant_type"], fields["client_id"]) == ("urn:ietf:params:oauth:grant-type:jwt-bearer", "gatepass")
    claims = signed(fields["assertion"], keys.public_pem("rsa"), "RS256", "https://sso.corp.example/oauth/token")
    assert (claims["iss"], claims["sub"]) == ("gatepass", "svc-llm")
    return reply(MINTED)


def portal(request: Received) -> bytes:
    assert (request.target, request.header("x-app")) == ("/api/token", "bot")
    assert request.json() == {"app_id": "bot", "secret": SECRET}
    return reply({"code": 0, "data": {"token": TOKEN, "expireAt": 4_102_444_800_000}})


def by_hmac(request: Received) -> bytes:
    fields = request.json()
    text = f"{fields['app_id']}\n{fields['timestamp']}\n{fields['nonce']}"
    assert request.header("x-signature") == hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
    return reply({"token": TOKEN, "ttl": 300})


def baidu(request: Received) -> bytes:
    parts = urlsplit(request.target)
    assert parts.path == "/oauth/2.0/token"
    assert dict(parse_qsl(parts.query)) == {"grant_type": GRANT, "client_id": "an-api-key", "client_secret": SECRET}
    return reply({**MINTED, "expires_in": 2_592_000})


def huawei(request: Received) -> bytes:
    assert request.target == "/v3/auth/tokens?nocatalog=true"
    login = request.json()["auth"]
    user = {"name": "svc-llm", "password": SECRET, "domain": {"name": "corp"}}
    assert login["identity"] == {"methods": ["password"], "password": {"user": user}}
    assert login["scope"] == {"project": {"name": "cn-north-4"}}
    return reply({"token": {"expires_at": "2099-01-01T00:00:00.000000Z"}}, 201, x_subject_token=TOKEN)


ENTRA = "login.microsoftonline.com"
RESOURCE = "https://cognitiveservices.azure.com"
IN_ENTRA = {"grant_type": GRANT, "client_id": CLIENT, "scope": f"{RESOURCE}/.default"}
ENTRA_PATH = f"/{TENANT}/oauth2/v2.0/token"


def by_certificate(request: Received) -> bytes:
    """Check what Entra ID checks of an assertion (learn.microsoft.com, "certificate credentials")."""
    assert request.target == ENTRA_PATH
    fields = form(request)
    assertion = fields.pop("client_assertion")
    assert fields == IN_ENTRA | ASSERTED
    thumbprint = base64.urlsafe_b64encode(keys.certificate("rsa").fingerprint(SHA256())).rstrip(b"=").decode()
    assert jwt.get_unverified_header(assertion) == {"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint}
    claims = signed(assertion, keys.public_pem("rsa"), "PS256", f"https://{ENTRA}{ENTRA_PATH}")
    assert (claims["iss"], claims["sub"]) == (CLIENT, CLIENT)
    assert {"jti", "iat", "nbf", "exp"} <= claims.keys()
    return reply(MINTED | {"expires_in": 3599, "ext_expires_in": 3599})


def metadata_of(path: str, headers: Mapping[str, str], query: Mapping[str, str], **members: Any) -> Asked:
    """A server that gives the machine's own identity: it requires a header that no browser and no proxy adds."""

    def answer(request: Received) -> bytes:
        parts = urlsplit(request.target)
        assert (request.method, parts.path, request.body) == ("GET", path, b"")
        assert {name: request.header(name) for name in headers} == headers
        assert request.header("x-forwarded-for") is None
        assert dict(parse_qsl(parts.query)) == query
        return reply({**MINTED, **members})

    return answer


# These servers write numbers as text. Their tokens live for 24 hours.
IMDS = metadata_of(
    "/metadata/identity/oauth2/token",
    {"metadata": "true"},
    {"api-version": "2018-02-01", "resource": RESOURCE},
    expires_in="86399",
    ext_expires_in="86399",
    expires_on=str(int(time.time()) + 86_399),
    not_before=str(int(time.time()) - 300),
    resource=RESOURCE,
)
APP_SERVICE = metadata_of(
    "/msi/token",
    {"x-identity-header": SECRET},
    {"api-version": "2019-08-01", "resource": RESOURCE},
    expires_in=None,
    expires_on=str(int(time.time()) + 86_399),
    resource=RESOURCE,
)
GOOGLE_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
GOOGLE_METADATA = metadata_of(GOOGLE_PATH, {"metadata-flavor": "Google"}, {}, expires_in=3599)


# --- the credential that the upstream expects --------------------------------------------------------------------


def header(name: str = "authorization", template: str = "Bearer {}", value: str = TOKEN) -> Callable[[Received], bool]:
    return lambda request: request.header(name) == template.format(value)


def parameter(name: str, value: str = TOKEN) -> Callable[[Received], bool]:
    return lambda request: parse_qs(urlsplit(request.target).query).get(name) == [value]


def several(request: Received) -> bool:
    beside = request.header("ocp-apim-subscription-key") == SECRET
    return beside and header()(request) and header("x-auth-token", "{}")(request)


AS_A_BEARER = header()


@dataclass(frozen=True)
class Case:
    """The environment of a recipe: its issuer, the credential that its upstream expects, its files and variables."""

    issuer: Asked | None = None
    host: str = "sso.corp.example"
    taken: Callable[[Received], bool] = AS_A_BEARER
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


CORP = {"CORP_SECRET": SECRET}
PORTAL = "portal.corp.example"
SCRIPT = "#!/bin/sh\n"
EXEC_CREDENTIAL = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": TOKEN, "expirationTimestamp": "2099-01-01T00:00:00Z"},
}
PLUGIN = f'{SCRIPT}[ "$1" = get-token ] && [ -n "$KUBERNETES_EXEC_INFO" ] && echo \'{json.dumps(EXEC_CREDENTIAL)}\'\n'
PEM = keys.private_pem("rsa") + keys.certificate_pem("rsa")
VENDOR = {
    "google/auth/__init__.py": f"""\
import datetime, os
class Found:
    token = None
    def refresh(self, request):
        self.token, self.expiry = {TOKEN!r}, datetime.datetime(2099, 1, 1)
def default(scopes):
    assert os.environ["GOOGLE_APPLICATION_CREDENTIALS"].endswith("/run/secrets/google.json")
    assert scopes == ["https://www.googleapis.com/auth/cloud-platform"]
    return Found(), "project"
""",
    "google/auth/transport/requests.py": "class Request: pass\n",
    "aws_bedrock_token_generator.py": f"""\
import os
def provide_token():
    used = [os.environ[f"AWS_{{name}}"] for name in ("REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
    assert used == ["eu-central-1", "AKIA1", {SECRET!r}]
    return "bedrock-api-key-" + "YmVkcm9jay5hbWF6b25hd3MuY29tLw=="
""",
}
"""Stand-ins for the vendors' libraries: the documented functions, with what they return."""
VENDOR_PYTHON = f'{SCRIPT}PYTHONPATH=/opt/vendor/bin/ exec {sys.executable} "$@"\n'
VENDOR_FILES = {"/opt/vendor/bin/python": VENDOR_PYTHON} | {f"/opt/vendor/bin/{name}": VENDOR[name] for name in VENDOR}
(GOOGLE_PROGRAM,) = re.findall(r"^```python\n(#!/opt/vendor.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

CASES = {
    "A fixed query beside the token": Case(
        taken=lambda request: (
            header()(request) and request.target.endswith("?api-version=2025-01-01-preview&tenant=research-4711")
        ),
        files={"/var/run/secrets/tokens/llm": TOKEN},
        env={"LLM_TENANT": "research-4711"},
    ),
    "Several headers, and an upstream that returns 403": Case(
        taken=several, files={"/var/run/secrets/tokens/llm": TOKEN}, env={"SUBSCRIPTION_KEY": SECRET}
    ),
    "Client credentials, the secret in a header": Case(IN_A_HEADER, files={"/run/secrets/corp": f"{SECRET}\n"}),
    "The secret in the form, an audience": Case(
        granted(
            OWN | GATEPASS | {"client_secret": SECRET, "audience": "https://llm.corp.example/", "tenant": "research"}
        ),
        env=CORP,
    ),
    "A signed assertion instead of the secret": Case(
        assertion_by_key, files={"/run/secrets/corp.key": keys.private_pem("rsa")}
    ),
    "A projected Kubernetes token instead of the secret": Case(
        granted(OWN | GATEPASS | ASSERTED | {"client_assertion": "projected-token"}),
        files={"/var/run/secrets/tokens/sso": "projected-token\n"},
    ),
    "An exchange of another token": Case(
        granted(
            EXCHANGED,
            client=f"gatepass:{SECRET}",
            issued_token_type="urn:ietf:params:oauth:token-type:access_token",
        ),
        env=CORP,
        files={"/var/run/secrets/tokens/sso": "the-first-token\n"},
    ),
    "A signed assertion about a user or service (jwt-bearer)": Case(
        signed_grant, files={"/run/secrets/corp.key": keys.private_pem("rsa")}
    ),
    "A client certificate (mTLS, RFC 8705), and a private CA": Case(granted(OWN | GATEPASS), "mtls.corp.example"),
    "A refresh token that changes with each use": Case(
        files={"/usr/local/bin/refresh_token.py": f"{SCRIPT}echo {TOKEN}\n"}, env=CORP
    ),
    "A user name and a password": Case(
        granted(GATEPASS | {"grant_type": "password", "username": "svc-llm", "password": SECRET}),
        env={"SVC_PASSWORD": SECRET},
    ),
    "A login of your own": Case(portal, PORTAL, env={"PORTAL_SECRET": SECRET}),
    "Baidu AI Cloud: the token in the query": Case(
        baidu,
        "aip.baidubce.com",
        parameter("access_token"),
        env={"BAIDU_API_KEY": "an-api-key", "BAIDU_SECRET_KEY": SECRET},
    ),
    "Huawei Cloud IAM: a token in a header, both ways": Case(
        huawei, "iam.myhuaweicloud.com", header("x-auth-token", "{}"), env={"HUAWEI_PASSWORD": SECRET}
    ),
    "SAP AI Core": Case(
        granted(OWN, target="/oauth/token", client=f"a-client-id:{SECRET}"),
        "corp.authentication.eu10.hana.ondemand.com",
        lambda request: header()(request) and header("ai-resource-group", "default")(request),
        env={"SAP_CLIENT_ID": "a-client-id", "SAP_CLIENT_SECRET": SECRET},
    ),
    "A kubectl plugin": Case(files={"/usr/local/bin/corp-login": PLUGIN}),
    "A file, a variable or a key": Case(
        taken=header("x-api-key", "{}"),
        files={"/var/run/secrets/tokens/llm": TOKEN, "/run/secrets/llm-key": f"{TOKEN}\n"},
        env={"LLM_TOKEN": TOKEN, "LLM_KEY": TOKEN},
    ),
    "Entra ID: a client secret": Case(
        granted(IN_ENTRA | {"client_secret": SECRET}, target=ENTRA_PATH), ENTRA, env={"AZURE_CLIENT_SECRET": SECRET}
    ),
    "Entra ID: a certificate": Case(by_certificate, ENTRA, files={"/run/secrets/azure.pem": PEM}),
    "Entra ID: a workload identity (AKS)": Case(
        granted(IN_ENTRA | ASSERTED | {"client_assertion": "projected-token"}, target=ENTRA_PATH),
        ENTRA,
        files={"/var/run/secrets/azure-token": "projected-token"},
        env={
            "AZURE_AUTHORITY_HOST": f"https://{ENTRA}/",
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_FEDERATED_TOKEN_FILE": "/var/run/secrets/azure-token",
        },
    ),
    "Entra ID: the managed identity of a virtual machine": Case(IMDS, "169.254.169.254"),
    "Entra ID: the managed identity of App Service or Container Apps": Case(
        APP_SERVICE,
        "169.254.130.4:8081",
        env={"IDENTITY_ENDPOINT": "http://169.254.130.4:8081/msi/token", "IDENTITY_HEADER": SECRET},
    ),
    "Google: the metadata server": Case(GOOGLE_METADATA, "metadata.google.internal"),
    "Google: a service account's key": Case(
        files={**VENDOR_FILES, "/usr/local/bin/google-token": GOOGLE_PROGRAM, "/run/secrets/google.json": "{}"}
    ),
    "Amazon Bedrock": Case(
        taken=header(value="bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLw=="),
        files=VENDOR_FILES,
        env={"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": SECRET},
    ),
}


# --- the world ----------------------------------------------------------------------------------------------------


class Machine:
    """Folders and variables of one machine, below a folder of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def here(self, text: str) -> str:
        for folder in MACHINE:
            text = re.sub(rf"(?<![\w/]){folder}", f"{self.root}{folder}", text)
        return text

    def write(self, path: str, text: str) -> None:
        file = Path(f"{self.root}{path}")
        if path.endswith("/"):
            file.mkdir(parents=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.here(text))
        if text.startswith("#!"):
            file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def machine(tmp_path, monkeypatch, authority) -> Machine:
    made = Machine(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEPASS_", "AZURE_", "AWS_", "GOOGLE_", "IDENTITY_", "MSI_", "CLOUDSDK_", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    authority.cert_pem.write_to_path(tmp_path / "system-trust.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system-trust.pem"))
    client = authority.issue_cert("gatepass.corp.example")
    made.write("/run/secrets/corp-ca.pem", authority.cert_pem.bytes().decode())
    made.write("/run/secrets/corp.pem", client.cert_chain_pems[0].bytes().decode())
    made.write("/run/secrets/corp.key", client.private_key_pem.bytes().decode())
    return made


class RecipeServers:
    """The servers of a recipe, and the requests that its issuer received."""

    def __init__(self, case: Case, authority: trustme.CA) -> None:
        self.case = case
        self.asked = 0
        self.secure = Scripted(answer=self._answer, tls=_context(authority, UPSTREAM, case.host))
        wanting = _context(authority, case.host)
        wanting.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(wanting)
        self.wanting = Scripted(answer=self._answer, tls=wanting)
        self.plain = Scripted(answer=self._answer)

    def _answer(self, request: Received) -> Dialogue:
        host = request.header("host")
        if host == UPSTREAM:
            taken = self.case.taken(request)
            return [Send(reply({"data": [{"id": "m"}]}) if taken else reply({"error": "who are you?"}, 401))]
        assert (host, self.case.issuer is not None) == (self.case.host, True)
        assert self.case.issuer is not None
        self.asked += 1
        return [Send(self.case.issuer(request))]

    def port(self, host: str, port: int) -> int:
        """Resolve every name to this test, and none over the network."""
        assert host in (UPSTREAM, self.case.host.partition(":")[0])
        server = self.plain if port != 443 else self.wanting if host.startswith("mtls.") else self.secure
        return urlsplit(server.url).port or 0


def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(name.partition(":")[0] for name in names)).configure_cert(context)
    return context


@asynccontextmanager
async def alive(servers: RecipeServers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    resolve = socket.getaddrinfo

    def resolved(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host == "127.0.0.1":
            return resolve(host, port, *more, **named)
        return resolve("127.0.0.1", servers.port(host, int(port)), *more, **named)

    async def handled(own: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        """httpx2 takes no port of a look-up: the request is sent to the server of its host."""
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        request.extensions["sni_hostname"] = host
        request.url = request.url.copy_with(host="127.0.0.1", port=servers.port(host, port))
        return await handle(own, request)

    handle = httpx2.AsyncHTTPTransport.handle_async_request
    async with AsyncExitStack() as stack:
        for server in (servers.secure, servers.wanting, servers.plain):
            await stack.enter_async_context(server)
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handled)
        yield
        monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)


def whole(recipe: str) -> str:
    """`recipe` with an upstream for its credential, where it leaves that to the first one of the page."""
    if "upstreams:" in recipe:
        return recipe
    *_, name = YAML(typ="safe").load(recipe)["credentials"]
    return f"{recipe}upstreams:\n  chat: {{base_url: https://{UPSTREAM}/v1, credential: {name}}}\n"


@pytest.mark.parametrize("heading", RECIPES)
async def test_a_recipe_mints_a_token_that_its_upstream_takes(heading, machine, monkeypatch, authority):
    case = CASES[heading]
    for path, text in case.files.items():
        machine.write(path, text)
    for name, value in case.env.items():
        monkeypatch.setenv(name, machine.here(value))
    file = machine.root / "gatepass.yaml"
    file.write_text(machine.here(whole(RECIPES[heading])))
    config = (loaded := load(str(file), os.environ)).config
    assert [*plain_secrets(loaded.document.tree, loaded.effective()[0])] == []
    names = list(config.credentials)
    servers = RecipeServers(case, authority)
    async with alive(servers, monkeypatch):
        steps = [step async for step in diagnose(config)]
    assert {str(step.outcome) for step in steps} == {"works"}, steps
    found = [(step.hop, step.what, step.why) for step in steps if step.what in ("token", "models")]
    tokens = [(f"credential:{name}", "token") for name in names]
    assert [(hop, what) for hop, what, _ in found] == [*tokens, ("upstream:chat", "models")]
    assert found[-1][2] == "answers and accepts the token"
    if case.host.startswith("169.254."):
        assert re.fullmatch("a token was fetched; its lifetime is 86[0-9.]+ s", found[0][2])
    assert servers.asked == (case.issuer is not None)


def test_each_recipe_has_its_case_and_each_case_its_recipe():
    assert sorted(RECIPES) == sorted(CASES)
    assert TEXT.count("```yaml") == len(RECIPES), "two recipes under one heading"


def test_each_kind_has_a_recipe():
    blocks = [block for text in RECIPES.values() for block in YAML(typ="safe").load(text)["credentials"].values()]
    assert {block["type"] for block in blocks} == set(KINDS)


def test_the_command_of_the_page_is_there_with_its_flags():
    entry = COMMANDS["token"]
    options = {flag for option in import_module(entry.module).token.params for flag in option.opts}
    assert set(re.findall(r"`(--[a-z]+)`", TEXT)) <= options


ERRORS = {
    "the issuer refused the client: … answered 401: invalid_client": reply({"error": "invalid_client"}, 401),
    "the URL is wrong: … answered 404": reply({}, 404),
    "answered 200 with an HTML page (Sign in)": reply(b"<html><title>Sign in</title></html>", content_type="text/html"),
    "answered without a token; the reply has data (jwt_token, …)": reply({"data": {"jwt_token": TOKEN, "user": "x"}}),
}
"""Rows of docs/symptoms.yaml, and the issuer's reply that causes each."""


@pytest.mark.parametrize("shown", ERRORS)
async def test_a_symptom_of_a_token_is_the_error_of_its_reply(shown, tmp_path):
    assert any(f"`{shown}`" in row["en"]["see"] for section in SECTIONS for row in section["rows"])
    async with Scripted(answer=lambda _: [Send(ERRORS[shown])]) as issuer:
        credential = {"type": "oauth2", "token_url": f"{issuer.url}/token", "client_id": "c", "client_secret": SECRET}
        upstreams = {"chat": {"base_url": f"{issuer.url}/v1", "credential": "corp"}}
        file = tmp_path / "gatepass.json"
        file.write_text(json.dumps({"credentials": {"corp": credential}, "upstreams": upstreams}))
        steps = [step async for step in diagnose(load(str(file), os.environ).config)]
    [why] = [step.why for step in steps if (step.hop, step.what) == ("credential:corp", "token")]
    assert all(part in why for part in shown.split("…")), why


async def test_the_program_that_signs_a_login_signs_what_it_sends(tmp_path):
    (program,) = re.findall(r"^```python\n(#!/usr.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    path = tmp_path / "portal-token"
    path.write_text(program)
    async with Scripted(answer=lambda request: [Send(by_hmac(request))]) as issuer:
        arguments, env = (sys.executable, str(path), f"{issuer.url}/api/token"), {"PORTAL_SECRET": SECRET}
        started = await asyncio.create_subprocess_exec(*arguments, env=env, stdout=subprocess.PIPE)
        printed, _ = await started.communicate()
    assert json.loads(printed)["token"] == TOKEN
