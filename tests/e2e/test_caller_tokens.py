"""Callers by the tokens of oidc-provider (`access.jwt`): services, a person's login, agents, and a rotation of keys.

The tokens of agents end while they work, so that they have to run their commands again after a 401.
"""

import base64
import hashlib
import http.cookiejar
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import token_helper
from tests.e2e.hosts.programs import WITH_HELPER, Host, Run, run
from tests.e2e.process import Process
from tests.e2e.servers import (
    CLIENT_ID,
    CLIENT_SECRET,
    HERE,
    REPLY_S,
    RESOURCE,
    ROOT,
    SCOPE,
    Issuer,
    get_json,
    listening,
    node,
    serve,
    start_issuer,
)
from tests.waiting import block_until

AGENT_LIFE_S = 6
"""Shorter than a silence of the model (hosts/upstream.py), after which the agent sends its next request."""
BEHIND_S = 25
"""How far the clock of the callers' issuer is behind: gatepass accepts up to 30 s."""
SERVICE_SECRET = "secret-of-the-services"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
LIMIT = 1000
WORDS = "The words are amber and basalt."


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers, and the runs of the agents, which go on beside the tests."""

    issuer: str
    upstream: str
    gatepass: Process
    url: str
    folder: Path
    runs: dict[str, Future[Run]]

    def token(self, client: str) -> str:
        return token_helper.fetch(f"{self.issuer}/token", client, SERVICE_SECRET, RESOURCE, SCOPE)

    def chat(self, token: str) -> tuple[int, Any, Any]:
        """Return the status, the head and the body of the answer to a chat."""
        body = {"model": "task-own", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
                return reply.status, reply.headers, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, json.load(error)

    def log(self, **fields: object) -> list[dict[str, Any]]:
        logged = [json.loads(line) for line in self.gatepass.output.splitlines() if line.startswith("{")]
        return [line for line in logged if line.items() >= fields.items()]

    def line_of(self, head: Any) -> dict[str, Any]:
        """Return the line of the request whose answer has this head."""
        (line,) = block_until(lambda: self.log(event="request", id=head["x-request-id"]))
        return line


def model_of(host: Host) -> str:
    return f"task-{host.program.rpartition('/')[2]}"


def sign_in(issuer: str, person: str) -> dict[str, Any]:
    """Sign in at `desktop` as a browser does, with a code and PKCE; return the answer of the token endpoint."""
    verifier, back = "v" * 43, f"{issuer}/callback"
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {"client_id": "desktop", "response_type": "code", "scope": "openid", "redirect_uri": back, "nonce": "n"}
    asked |= {"code_challenge": digest, "code_challenge_method": "S256"}
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def load(url: str, **form: str) -> Any:
        body = urllib.parse.urlencode(form).encode() if form else None
        return browser.open(url, body, timeout=REPLY_S)

    page = f"{issuer}/auth?{urllib.parse.urlencode(asked)}"
    for form in ({}, {"prompt": "login", "login": person, "password": "any"}, {"prompt": "consent"}):
        with load(page, **form) as shown:
            page = shown.url  # after the redirects
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(page).query)["code"][0]
    named = {"grant_type": "authorization_code", "client_id": "desktop"}
    with load(f"{issuer}/token", **named, code=code, redirect_uri=back, code_verifier=verifier) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def configuration(callers: str, issuer: Issuer, upstream: str) -> dict[str, Any]:
    of_client = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scope": SCOPE}
    credential = {"type": "oauth2", "token_url": issuer.token_url, **of_client, "extra": {"resource": RESOURCE}}
    rows = [
        {"claim": "sub", "equals": "agent", "name": "agents", "limits": {"requests": {"minute": LIMIT}}},
        {"claim": "roles", "contains": "llm-batch", "name": "services"},
        {"claim": "roles", "contains": "llm-user", "name": "people", "name_from": "preferred_username"},
    ]
    of_callers = {"issuer": callers, "audience": [RESOURCE, "desktop"], "tokens": ["access", "id"], "callers": rows}
    return {
        "credentials": {"sso": credential},
        "upstreams": {"up": {"base_url": f"{upstream}/v1", "credential": "sso"}},
        "models": {"*": {"upstream": "up"}},
        "access": {"jwt": [of_callers]},
    }


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("callers")
    of_callers = {"CLIENT_SECRET": SERVICE_SECRET, "RESOURCE": RESOURCE, "SCOPE": SCOPE}
    of_callers |= {"AGENT_LIFE_S": str(AGENT_LIFE_S), "BEHIND_S": str(BEHIND_S)}
    with ExitStack() as started:
        process = started.enter_context(node("issuer", HERE / "issuer" / "callers.mjs", of_callers))
        issuer = Issuer(listening(started.enter_context(start_issuer(token_life_s=600))))
        callers = listening(process)
        command = [sys.executable, "-m", "tests.e2e.hosts.upstream", issuer.url, RESOURCE]
        upstream = listening(started.enter_context(Process(command, folder=ROOT)))
        config = folder / "gatepass.json"
        config.write_text(json.dumps(configuration(callers, issuer, upstream)))
        # the development environment has the extra `crypto`
        gatepass = started.enter_context(serve(config, python=sys.executable))
        url = listening(gatepass)

        def run_host(host: Host) -> Run:
            home = folder / model_of(host)
            home.mkdir()
            helper = f"{sys.executable} -I {HERE}/hosts/token_helper.py {callers}/token agent {SERVICE_SECRET}"
            return run(host, url, f"{helper} {RESOURCE} {SCOPE} {home}/runs", model_of(host), home)

        with ThreadPoolExecutor(len(WITH_HELPER)) as pool:
            runs = {host.name: pool.submit(run_host, host) for host in WITH_HELPER}
            yield Stage(callers, upstream, gatepass, url, folder, runs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_service_is_known_by_its_access_token(stage: Stage, algorithm: str):
    status, head, body = stage.chat(stage.token(algorithm))
    assert status == 200, body
    assert stage.line_of(head)["caller"] == "services"


def test_a_person_is_known_by_the_id_token_of_a_login_and_not_by_its_opaque_access_token(stage: Stage):
    answer = sign_in(stage.issuer, "alice")
    status, head, body = stage.chat(answer["id_token"])
    assert status == 200, body
    line = stage.line_of(head)
    assert (line["caller"], line["user"]) == ("people", "alice@corp.example")
    status, head, body = stage.chat(answer["access_token"])
    assert (status, body["error"]["code"]) == (401, "invalid_token")
    assert head["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer["access_token"] not in json.dumps(body)


@pytest.mark.parametrize("host", WITH_HELPER, ids=lambda host: host.name)
def test_an_agent_runs_its_command_again_when_its_token_ends(stage: Stage, host: Host):
    done = stage.runs[host.name].result()
    runs = (stage.folder / model_of(host) / "runs").read_text().splitlines()
    assert done.exit_code == 0, done.printed
    assert WORDS in done.printed
    assert len(runs) > 1
    requests = get_json(f"{stage.upstream}/requests")["requests"][model_of(host)]
    assert {request.split()[2] for request in requests} == {"200"}
    # of refusals at one address, the first in a second has a line
    lines = block_until(lambda: stage.log(event="request", status=401))
    assert {line["code"] for line in lines} == {"invalid_token"}


def test_all_tokens_of_an_agent_are_of_one_caller(stage: Stage):
    for done in stage.runs.values():
        done.result()
    status, head, body = stage.chat(stage.token("agent"))
    assert status == 200, body
    assert int(head["x-ratelimit-remaining-requests"]) < LIMIT - 1


def test_a_rotation_of_keys_takes_effect_without_a_restart(stage: Stage):
    """The new keys are accepted, and the removed ones refused."""
    old = {algorithm: stage.token(algorithm) for algorithm in ALGORITHMS}
    assert {algorithm: stage.chat(token)[0] for algorithm, token in old.items()} == dict.fromkeys(ALGORITHMS, 200)
    urllib.request.urlopen(f"{stage.issuer}/rotate", b"", timeout=REPLY_S).close()  # noqa: S310 - loopback
    new = {algorithm: stage.token(algorithm) for algorithm in ALGORITHMS}
    block_until(lambda: stage.chat(new["RS256"])[0] == 200)  # an unknown key is fetched at most every 10 s
    assert {algorithm: stage.chat(token)[0] for algorithm, token in new.items()} == dict.fromkeys(ALGORITHMS, 200)
    for algorithm, token in old.items():
        status, head, body = stage.chat(token)
        assert (status, body["error"]["code"]) == (401, "invalid_token")
        assert head["www-authenticate"] == 'Bearer error="invalid_token"'
        assert f"{algorithm}-1" in body["error"]["message"]
    block_until(lambda: [line["keys"] for line in stage.log(event="key_set_fetched")] == [len(ALGORITHMS)] * 2)
    assert len(stage.log(event="listening")) == 1
