import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from valkey.asyncio import Valkey
from valkey.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - the client's name for it
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    ValkeyError,
)

from gatepass.config.model import StoreSettings
from gatepass.store.base import StoreUnavailable
from gatepass.store.valkey import PERMISSIONS, ValkeyStore
from gatepass.types import Secret
from tests.unit.clock import DrivenClock

SETTINGS = StoreSettings(url="valkey://127.0.0.1:1", encryption_key=Secret("k" * 32))


async def failed_with(message: str, kind: type[ValkeyError] = ResponseError, cause: OSError | None = None) -> str:
    """The reason that is reported for an error of the client, which it raises while it handles `cause`."""
    error = kind(message)
    error.__context__ = cause

    async def fails(*_: Any, **__: Any) -> None:
        raise error

    store = ValkeyStore(SETTINGS, DrivenClock())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Valkey, "set", fails)
        with pytest.raises(StoreUnavailable) as failure:
            await store.put("value/one", b"x", 1.0)
    await store.aclose()
    return str(failure.value)


@pytest.mark.parametrize(
    ("message", "kind", "cause", "reason"),
    [
        ("invalid username-password pair.", AuthenticationError, None, "pair. Check store.username and store.password"),
        ("no permissions to run 'get'", NoPermissionError, None, "Permit this user the keys gatepass:*, and"),
        ("command not allowed when", OutOfMemoryError, None, "The server is full: raise its maxmemory"),
        ("You can't write against", ReadOnlyError, None, "replica: set store.url to the primary"),
        (
            "Error 111",
            ConnectionError,
            OSError(errno.ECONNREFUSED, "Connect call"),
            "connection refused. Check store.url",
        ),
        (
            "Multiple exceptions",
            ConnectionError,
            OSError("Multiple exceptions: [Errno 111] Connect (::1), [Errno 111] Connect (127.0.0.1)"),
            "connection refused. Check store.url and that the server runs",
        ),
        (
            "Error -2",
            ConnectionError,
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "name or service not known. Check store.url and that the server runs",
        ),
        ("", ConnectionError, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "Write valkey:// in store.url if"),
        ("MISCONF cannot persist", ResponseError, None, "MISCONF cannot persist"),
    ],
)
async def test_a_reason_names_what_to_do_and_neither_a_class_nor_a_number(message, kind, cause, reason):
    reported = await failed_with(message, kind, cause)
    assert reason in reported
    assert not any(sign in reported for sign in ("Errno", "Error", "111", "SSL:"))


async def test_the_arguments_that_a_server_quotes_are_left_out():
    # Valkey cuts them after 128 bytes, which may be inside the password, where no mask knows it
    reason = await failed_with("unknown command 'AUTH', with args beginning with: 'the-password-of-th")
    assert reason == "unknown command 'AUTH'"


def test_the_permissions_of_an_error_are_those_of_the_documentation():
    page = (Path(__file__).parents[3] / "docs/operations/store.md").read_text()
    assert f"~gatepass:* -@all {PERMISSIONS}\n" in page
