"""The demo's embedded servers for tests: without sockets in tests/unit/demo, with them in tests/integration/demo."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatepass.demo.answer import Understood, answer
from gatepass.demo.issuer import Client, Issuer
from gatepass.demo.signing import Minted, SigningKey

CHAT = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
HI_BACK = answer(Understood("Hi"))

GRANT = {"grant_type": "client_credentials"}
FORM = GRANT | {"client_id": "bot", "client_secret": "s:ecret"}
LOGIN = {"app_id": "bot", "secret": "s:ecret"}


@pytest.fixture
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def token(key: SigningKey) -> Minted:
    return key.sign(number=1, subject="bot", audience="chat", life_s=60)


@pytest.fixture
def issuer(key: SigningKey) -> Issuer:
    return Issuer(key, Client("bot", "s:ecret", "chat"), life_s=20)


def data_events(body: str) -> list[Any]:
    lines = [block.removeprefix("data: ") for block in body.split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
