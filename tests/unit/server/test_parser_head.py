"""The head of a request: what its target names, how large it is, and its own words."""

from __future__ import annotations

import httptools
import pytest

from gatepass.server.parser import path_of


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/v1/x?q=/y", "/v1/x"),
        (b"/v1/x?y?z", "/v1/x"),
        (b"/?", "/"),
        (b"/v1/x#y", "/v1/x"),
        (b"/v1/x?y#z", "/v1/x"),
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
