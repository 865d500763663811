import ctypes
import sys

import pytest

from gatepass.server.process import HEAP_BODY_BYTES, KEPT_BYTES, keep_freed_pages

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def test_other_c_library_is_unchanged(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_pages() is False


def test_glibc_gets_both_bounds(monkeypatch):
    reported = {}

    class Library:
        def mallopt(self, which: int, value: int) -> int:
            reported[which] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert keep_freed_pages() is True
    assert reported == {-3: HEAP_BODY_BYTES, -1: KEPT_BYTES}


@pytest.mark.skipif(not (GLIBC and sys.platform == "linux"), reason="wants glibc")
def test_glibc_accepts_the_thresholds():
    assert keep_freed_pages() is True
