"""Who may use the page at /ui: a key at the sign-in and afterwards, and requests of its own origin."""

from typing import Any

import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.auth.authenticator import Authenticator
from gatepass.config.model import Config
from gatepass.errors import ForbiddenHost, ForbiddenOrigin, GatepassError, InvalidApiKey, NotAllowed
from gatepass.types import ClientRequest

KEY = "gp-alice-0123456789abcdef"
ALICE: dict[str, Any] = {"name": "alice", "role": "admin", "hash": hash_key(KEY)}
ENDS_S = 1_900_000_000.0  # 2030-03-17


def authenticator(*keys: dict[str, Any], **server: Any) -> Authenticator:
    blocks = {"upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}}, "access": {"keys": list(keys)}}
    return Authenticator(Config.model_validate({**blocks, "server": server}))


def test_an_admin_signs_in():
    caller, digest = authenticator(ALICE).sign_in(KEY, 0.0, 0.0)
    assert (caller.name, caller.role, "alice" in repr(digest)) == ("alice", "admin", False)


@pytest.mark.parametrize(
    ("key", "entry", "error"),
    [
        ("gp-other", ALICE, InvalidApiKey),
        ("", ALICE, InvalidApiKey),
        ("\ud800", ALICE, InvalidApiKey),
        (KEY, {**ALICE, "role": "caller"}, NotAllowed),
        (KEY, {**ALICE, "expires": "2026-01-31"}, InvalidApiKey),
    ],
)
def test_another_key_does_not_sign_in(key: str, entry: dict[str, Any], error: type[GatepassError]):
    with pytest.raises(error) as raised:
        authenticator(entry).sign_in(key, 0.0, ENDS_S)
    assert not key or key not in raised.value.message


@pytest.mark.parametrize(
    ("changed", "role"),
    [
        *(({}, "admin"), ({"role": "viewer"}, "viewer"), ({"role": "caller"}, None), ({"name": "bob"}, None)),
        *(({"hash": hash_key("gp-alices-next-key-0123")}, None), ({"expires": "2026-01-31"}, None)),
    ],
)
def test_a_session_has_the_role_of_its_key_until_that_ends_or_changes(changed: dict[str, Any], role: str | None):
    _, digest = authenticator(ALICE).sign_in(KEY, 0.0, ENDS_S)
    found = authenticator({**ALICE, **changed}).signed_in("alice", digest, 0.0, ENDS_S)
    assert (found and found.role) == role


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
