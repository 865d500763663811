"""No page leaves to a key without the role, however its path, method and key are written."""

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from gatepass.config.access import hash_key
from tests.attacks.conftest import Attack
from tests.attacks.test_ui import Trick, opened

KEYS = {role: f"gp-{role}-0123456789abcdef" for role in ("caller", "viewer", "admin", "ended")}
"""The key of each role, and one of an admin that has expired."""
BLOCKS: dict[str, Any] = {
    "upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}},
    "server": {"base_path": "/llm", "drain_timeout_s": 0},
    "access": {
        "keys": [
            *({"name": role, "role": role, "hash": hash_key(KEYS[role])} for role in ("caller", "viewer", "admin")),
            {"name": "ended", "role": "admin", "expires": "2020-01-31", "hash": hash_key(KEYS["ended"])},
        ]
    },
}
Fields = tuple[tuple[str, str], ...]
MARKS = (b"# HELP", b'"in_flight"', b'"rules"')
"""Words of the pages that no error contains."""
PAGES = ("status", "metrics", "learned")
SPELLINGS = (
    *("/{}", "/llm/{}", "//{}", "/llm//{}", "/./{}", "/x/../{}", "/healthz/../{}", "/v1/{}", "/for/dify/{}"),
    *("/{}/", "/{}?key=x", "/{};a", "/{}%00", "/{}#x", "/{}/.", "/{}%2f"),
)


async def is_shown(ask: Callable[[Trick], Awaitable[bytes]], method: str, target: str, fields: Fields) -> bool:
    answer = await ask(Trick(method, target, (("host", "gw.example"), *fields), MARKS))
    return any(mark in answer for mark in MARKS)


def shown_as(key: str) -> list[Fields]:
    return [
        (("authorization", f"Bearer {key}"),),
        (("api-key", f" {key} "),),
        (("authorization", f"bearer {key}"), ("x-api-key", key)),
        (("x-api-key", key), ("api-key", KEYS["viewer"])),
        (("authorization", f'Bearer {{"api_key": "{key}", "role": "admin"}}'),),
        (("authorization", f"Bearer {key}"), ("x-role", "admin"), ("x-original-url", "/healthz")),
    ]


@pytest.mark.attack("access: pages without the role")
async def test_no_page_leaves_to_a_key_without_the_role(attack: Attack) -> None:
    keys = [(), *(fields for role in ("caller", "ended") for fields in shown_as(KEYS[role]))]
    spelled = [("GET", spelling.format(page), keys[1]) for spelling, page in product(SPELLINGS, PAGES)]
    spelled.append(("GET", "/%73tatus", keys[1]))
    presented = [(method, f"/{page}", fields) for method, page, fields in product(("GET", "HEAD"), PAGES, keys)]
    async with opened(BLOCKS) as servers:
        for ask, case in product(servers, (*spelled, *presented)):
            attack.check(not await is_shown(ask, *case), (ask, case))


async def test_a_reader_gets_the_page_under_both_servers() -> None:
    async with opened(BLOCKS) as servers:
        for ask, role, page in product(servers, ("viewer", "admin"), ("%73tatus", "llm/metrics", "learned")):
            fields = (("authorization", f"Bearer {KEYS[role]}"),)
            assert await is_shown(ask, "GET", f"/{page}", fields), (ask, role, page)
