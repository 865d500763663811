"""Logins of each form over real sockets: from the issuer's reply to the upstream's header."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.references import Reference
from tests.integration.answers import COMPLETION
from tests.integration.gateway import gateway
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.test_secrets import assert_silent, logged
from tests.integration.tokens.programs import program

SECRET = "s-secret-4711"
TOKEN = "MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgE="
GOOD = [Send(reply(COMPLETION))]
OAUTH = [Send(reply({"access_token": TOKEN, "expires_in": 300, "scope": "x"}))]
BASIC = "Basic " + b64encode(f"me:{SECRET}".encode()).decode()
FORM = "application/x-www-form-urlencoded"
CLIENT = {"client_id": "me", "client_secret": SECRET}

LOGINS: dict[str, tuple[dict[str, Any], Dialogue, dict[str, str], tuple[str, str]]] = {
    "form": ({"form": {"apikey": SECRET}}, OAUTH, {"content-type": FORM}, ("authorization", f"Bearer {TOKEN}")),
    "headers": (
        {
            "json": {"password": SECRET},
            "reply": {"header": "X-Subject-Token", "expiry": "token.expires_at"},
            "token_placement": {"headers": {"X-Auth-Token": "{token}"}},
        },
        [Send(reply({"token": {"expires_at": "2100-01-01T00:00:00.000000Z"}}, 201, x_subject_token=TOKEN))],
        {"content-type": "application/json"},
        ("x-auth-token", TOKEN),
    ),
    "basic": (
        {"basic": {"username": "me", "password": SECRET}, "form": {"grant_type": "client_credentials"}},
        OAUTH,
        {"authorization": BASIC},
        ("authorization", f"Bearer {TOKEN}"),
    ),
    "json": (
        {"json": {"username": "me", "password": SECRET}},
        [Send(reply({"code": 0, "data": {"token": TOKEN, "expireAt": 4_102_444_800_000}}))],
        {"content-type": "application/json"},
        ("authorization", f"Bearer {TOKEN}"),
    ),
}


def blocks(upstream: Scripted, **credential: Any) -> dict[str, Any]:
    chat = {"base_url": f"{upstream.url}/v1", "credential": "corp"}
    return {"credentials": {"corp": credential}, "upstreams": {"chat": chat}}


@pytest.mark.parametrize("form", LOGINS)
async def test_each_form_of_login_signs_in_and_carries_its_token(form):
    given, answer, asks, (name, value) = LOGINS[form]
    async with Scripted(answer) as issuer, Scripted(GOOD) as upstream:
        settings = {"type": "http_json", "url": f"{issuer.url}/token", **given}
        async with gateway(**blocks(upstream, **settings)) as gp:
            with logged(gp.state) as log:
                answers = [await gp.ask().answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert [request.target for request in issuer.received] == ["/token"]
    assert {field: issuer.received[0].header(field) for field in asks} == asks
    assert [request.header(name) for request in upstream.received] == [value] * 3
    assert name == "authorization" or upstream.received[0].header("authorization") is None
    assert "/v1/chat/completions" in log.getvalue()
    assert_silent(log.getvalue(), [SECRET, TOKEN, BASIC], "the log")


async def test_baidus_token_is_a_query_parameter():
    async with Scripted(OAUTH) as issuer, Scripted(GOOD) as upstream:
        settings = {
            "type": "http_json",
            "url": f"{issuer.url}/oauth/2.0/token",
            "query": {"grant_type": "client_credentials", **CLIENT},
            "token_placement": {"query": "access_token"},
        }
        async with gateway(**blocks(upstream, **settings)) as gp:
            assert (await gp.ask().answer()).status == 200
    assert issuer.received[0].target == (
        f"/oauth/2.0/token?grant_type=client_credentials&client_id=me&client_secret={SECRET}"
    )
    assert upstream.received[0].target == f"/v1/chat/completions?access_token={TOKEN.replace('=', '%3D')}"


@pytest.mark.parametrize("kind", ["exec", "file", "env", "api_key"])
async def test_tokens_of_this_machine_arrive_too(kind, tmp_path: Path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    settings: dict[str, dict[str, Any]] = {
        "exec": {"command": [program(tmp_path, f"print('{TOKEN}')")]},
        "file": {"path": str(tmp_path / "token")},
        "env": {"variable": Reference.to_variable("CORP_TOKEN", TOKEN)},
        "api_key": {"key": TOKEN, "header": "X-Key"},
    }
    async with (
        Scripted(GOOD) as upstream,
        gateway(**blocks(upstream, type=kind, **settings[kind])) as gp,
    ):
        answer = await gp.ask().answer()
    assert answer.status == 200
    field, value = ("x-key", TOKEN) if kind == "api_key" else ("authorization", f"Bearer {TOKEN}")
    assert upstream.received[0].header(field) == value


async def test_a_rejected_token_of_a_program_costs_one_run_and_no_request(tmp_path: Path):
    counter = tmp_path / "runs"
    path = program(
        tmp_path,
        f"import pathlib\nruns = pathlib.Path('{counter}')\n"
        "count = int(runs.read_text()) + 1 if runs.exists() else 1\n"
        "runs.write_text(str(count))\nprint(f'token-{count}')\n",
    )

    def takes_the_second(request: Received) -> Dialogue:
        fine = request.header("authorization") == "Bearer token-2"
        return GOOD if fine else [Send(reply({"error": {"message": "expired"}}, 401))]

    async with (
        Scripted(answer=takes_the_second) as upstream,
        gateway(**blocks(upstream, type="exec", command=[path])) as gp,
    ):
        answer = await gp.ask().answer()
    assert answer.status == 200
    assert counter.read_text() == "2"


async def test_a_failed_program_is_reported_to_the_client_without_its_secret(tmp_path: Path):
    path = program(tmp_path, "import sys\nsys.exit('no account for ' + sys.argv[1])")
    secret = Reference.to_variable("PASSWORD", SECRET)
    async with (
        Scripted(GOOD) as upstream,
        gateway(**blocks(upstream, type="exec", command=[path, secret])) as gp,
    ):
        answer = await gp.ask().answer()
    assert (answer.status, answer.error["code"]) == (503, "token_unavailable")
    assert "get-token ended with exit code 1: no account for ***" in answer.error["message"]
    assert upstream.received == []
