"""Who may use the page at /ui: a key with a role, and requests of its own origin."""

from typing import Any

import pytest

from gatepass.auth.authenticator import Authenticator
from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.errors import ForbiddenHost, ForbiddenOrigin, NotAllowed
from gatepass.types import ClientRequest

KEY = "gp-alice-0123456789abcdef"
ALICE: dict[str, Any] = {"name": "alice", "role": "admin", "hash": hash_key(KEY)}


def authenticator(*keys: dict[str, Any], **server: Any) -> Authenticator:
    blocks = {"upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}}, "access": {"keys": list(keys)}}
    return Authenticator(Config.model_validate({**blocks, "server": server}))


def check(*fields: tuple[bytes, bytes], method: str = "GET", peer: str = "192.0.2.7", keys: bool = True) -> None:
    made = authenticator(*([ALICE] if keys else []), ui_hosts=["Gw.Example"])
    made.check_page(ClientRequest("", method, "/ui/", fields, peer, 0.0))


HOST = (b"host", b"gw.example:8080")
OWN = (b"origin", b"http://gw.example:8080")


@pytest.mark.parametrize(
    "fields",
    [
        (HOST,),
        ((b"host", b"GW.example"),),
        ((b"host", b"gw.example."),),
        ((b"host", b"192.0.2.7:8080"),),
        ((b"host", b"[2001:db8::7]:8080"),),
        ((b"host", b"localhost"),),
        (HOST, OWN),
        (HOST, (b"origin", b"https://gw.example:8080")),
        ((b"host", b"gw.example"), (b"origin", b"https://gw.example:443")),
        (HOST, OWN, (b"sec-fetch-site", b"same-origin")),
        (HOST, (b"sec-fetch-site", b"none")),
    ],
)
def test_its_own_names_and_origin_are_accepted(fields: tuple[tuple[bytes, bytes], ...]):
    check(*fields)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "OPTIONS"])
def test_a_change_requires_an_origin(method: str):
    check(HOST, OWN, method=method)
    with pytest.raises(ForbiddenOrigin):
        check(HOST, method=method)


def test_without_keys_only_this_machine_reaches_the_page():
    check((b"host", b"localhost:8080"), peer="127.0.0.1", keys=False)
    with pytest.raises(NotAllowed):
        check((b"host", b"localhost:8080"), keys=False)
    with pytest.raises(ForbiddenHost):
        check(HOST, peer="127.0.0.1", keys=False)
    with pytest.raises(ForbiddenOrigin):  # another program on this machine
        check((b"host", b"localhost:8080"), (b"origin", b"http://localhost:3000"), peer="127.0.0.1", keys=False)
