"""The head of a request: what its target names, and the one field that is put aside."""

from __future__ import annotations

import httptools
import pytest

from gatepass.api.head import path_of, size_bytes, without_upgrade


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/v1/x?q=/y", "/v1/x"),
        (b"/v1/x#y", "/v1/x"),
        (b"/v1/%78%2Fy?q=%20", "/v1/x/y"),
        (b"/v1/%C3%A4", "/v1/ä"),
        (b"http://h:1/v1/x?q=1", "/v1/x"),
        (b"http://h", "/"),
        (b"*", "*"),
    ],
)
def test_a_target_names_a_path(target: bytes, path: str):
    assert path_of(target) == path


@pytest.mark.parametrize("target", [b"http://", b"", b"x"])
def test_a_target_that_names_none_is_an_error(target: bytes):
    with pytest.raises(httptools.HttpParserError):
        path_of(target)


def test_a_path_beyond_ascii_is_an_error():
    with pytest.raises(UnicodeDecodeError):
        path_of("/ä".encode())


def test_an_offer_to_upgrade_gets_another_name_in_the_head_alone():
    raw = b"POST / HTTP/1.1\r\nUpGrade: h2c\r\nx-upgrade: 1\r\n%b\r\n\r\nbody\r\nupgrade: h2c"
    assert without_upgrade(raw % b"upgrade: y") == raw.replace(b"UpGrade", b"ignored", 1) % b"ignored: y"


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nx: upgrade: y", b"x: y\r\n\r\nbody\r\nupgrade: h2c"])
def test_what_offers_nothing_is_left_alone(data: bytes):
    assert without_upgrade(data) is data


def test_an_offer_in_a_head_that_is_not_whole_yet_is_found():
    assert without_upgrade(b"GET / HTTP/1.1\r\nupgrade: h2c\r\nx") == b"GET / HTTP/1.1\r\nignored: h2c\r\nx"


def test_a_head_is_as_large_as_what_the_client_chose():
    assert size_bytes(b"/v1", [(b"a", b"bc"), (b"def", b"")]) == 3 + 3 + 3
