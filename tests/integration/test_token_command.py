"""`gatepass token NAME` against an issuer on a real socket."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from gatepass.cli import main
from tests.integration.scripted import Dialogue, Scripted, Send, reply

SECRET = "a-long-client-secret"
KEY = "a-key-of-a-test-that-is-long-enough-for-hs256"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("GATEPASS_CONFIG", raising=False)


def written(folder: Path, issuer: Scripted, **more: Any) -> str:
    corp = {"type": "oauth2", "token_url": f"{issuer.url}/token", "client_id": "i", "client_secret": SECRET, **more}
    upstreams = {"chat": {"base_url": "http://127.0.0.1:9/v1", "credential": "corp"}}
    file = folder / "gatepass.json"
    file.write_text(json.dumps({"credentials": {"corp": corp}, "upstreams": upstreams}))
    return str(file)


async def called(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["token", *arguments])


def answering(*answers: Any) -> list[Dialogue]:
    return [[Send(reply(*answer)) if isinstance(answer, tuple) else Send(reply(answer))] for answer in answers]


async def test_a_token_is_described_and_not_shown(tmp_path):
    text = jwt.encode({"iss": "https://sso", "iat": 1_760_000_000, "exp": 1_760_000_300}, KEY, algorithm="HS256")
    async with Scripted(*answering({"access_token": text, "expires_in": 9999})) as issuer:
        result = await called("corp", "--config", written(tmp_path, issuer))
    assert (result.exit_code, len(issuer.received)) == (0, 1)
    shown = re.sub(r"(?<=_s) +[0-9.]+|\([^)]*ago\)", "…", result.output)
    assert shown == (
        f"credential      corp\ntype            oauth2\nfrom            {issuer.url.removeprefix('http://')}\n"
        f"kind            jwt\ncharacters      {len(text)}\nage_s…\nlifetime_s…\nexpires_in_s…\nnext_try_in_s…\n"
        "lifetime_source jwt\nsent_as         Authorization: Bearer {token}, to chat\n"
        "claims          iss: https://sso\n"
        "claims          iat: 2025-10-09 08:53:20Z …\nclaims          exp: 2025-10-09 08:58:20Z …\n"
    )
    assert text not in result.output


async def test_json_has_the_same_facts_and_the_token_only_with_reveal(tmp_path):
    text = jwt.encode({"iss": "https://sso", "exp": 4_000_000_000}, KEY, algorithm="HS256")
    refusal = {"error": "invalid_client"}
    async with Scripted(*answering({"access_token": text}, {"access_token": text}, (refusal, 401))) as issuer:
        file = written(tmp_path, issuer)
        hidden, revealed, failed = [await called("--json", "--config", file, *more) for more in ((), ("--reveal",), ())]
        host = issuer.url.removeprefix("http://")
    shown, whole = json.loads(hidden.stdout), json.loads(revealed.stdout)
    assert (text in hidden.output, whole["token"]) == (False, text)
    times = [shown.pop(name) for name in ("age_s", "lifetime_s", "expires_in_s", "next_try_in_s")]
    assert all(round(seconds, 3) == seconds >= 0 for seconds in times)
    assert shown == {
        "credential": "corp",
        "type": "oauth2",
        "from": host,
        "kind": "jwt",
        "characters": len(text),
        "lifetime_source": "jwt",
        "sent_as": ["Authorization: Bearer {token}, to chat"],
        "claims": {"iss": "https://sso", "exp": shown["claims"]["exp"]},
    }
    assert failed.exit_code == 1
    assert "answered 401: invalid_client. Check credentials.corp.client_id" in json.loads(failed.stdout)["error"]


@pytest.mark.parametrize(
    ("language", "advice"),
    [
        ("en", "set `credentials.corp.client_auth` to `form`: with `basic`, signs of the secret such as `!`"),
        ("zh_CN.UTF-8", "把 `credentials.corp.client_auth` 设为 `form`：使用 `basic` 时，secret 中的 `!` 等符号"),
    ],
)
async def test_a_refused_secret_that_basic_encodes_is_explained(tmp_path, monkeypatch, language, advice):
    """RFC 6749 encodes it; some issuers compare the encoded bytes, so that the right secret is refused."""
    monkeypatch.setenv("LC_ALL", language)
    secret = "p!ss-0123456789"
    async with Scripted(*answering(({"detail": "invalid_client"}, 401))) as issuer:
        result = await called("--config", written(tmp_path, issuer, client_secret=secret))
    assert advice in result.stderr
    assert secret not in result.output


async def test_failure_has_the_issuers_message_without_the_secret(tmp_path):
    refusal = {"error": "invalid_client", "error_description": f"no client i with the secret {SECRET}"}
    async with Scripted(*answering((refusal, 401))) as issuer:
        result = await called("corp", "--reveal", "--config", written(tmp_path, issuer))
        host = issuer.url.removeprefix("http://")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("FAIL credential:corp: ")
    assert host in result.stderr
    assert "invalid_client" in result.stderr
    assert "no client i with the secret ***" in result.stderr
    assert ". Check `credentials.corp.client_id` or " in result.stderr
    assert SECRET not in result.output
