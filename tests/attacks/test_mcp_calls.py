"""Requests of a key with a list of tools at an MCP server: every shape is checked within the time of a turn."""

from contextlib import suppress

import pytest

from gatepass.auth.authenticator import LOCAL
from gatepass.errors import CallerError
from gatepass.json_body import MOST_MEMBERS
from gatepass.mcp.access import check_call
from tests.attacks.conftest import Attack


def members(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"k%d":[]' % number for number in range(count))


PARAMS = {
    "many members": lambda: members(310_000),
    "a name with members": lambda: b'{"name":%b}' % members(310_000),
    "a name of lists": lambda: b'{"name":[%b[]]}' % (b"[]," * 1_300_000),
    "a long name": lambda: b'{"name":"%b"}' % (b"ab" * 2_000_000),
    "arguments with members": lambda: b'{"name":"ab","arguments":%b}' % members(310_000),
    "no end": lambda: b'{"name":"' + b"\\" * 3_900_000,
}


@pytest.mark.attack("requests of a key with a list of tools at an MCP server")
@pytest.mark.parametrize("shape", PARAMS)
def test_a_call_of_any_shape_is_checked_in_a_turn(attack: Attack, shape: str) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % PARAMS[shape]()
    # the values of the client are not built: there are only copies of parts of the body, and MOST_MEMBERS names
    with attack.memory(4 * len(body) + 160 * MOST_MEMBERS), suppress(CallerError):
        check_call(body, (), ["find", "*a*a*a*a*b"], LOCAL)
    with attack.on_loop(), suppress(CallerError):
        check_call(body, (), ["find", "*a*a*a*a*b"], LOCAL)
