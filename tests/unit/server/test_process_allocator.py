import ctypes

from gatepass.server.process import HEAP_BODY_BYTES, KEPT_BYTES, keep_freed_pages


def test_glibc_gets_both_bounds(monkeypatch):
    reported = {}

    class Library:
        def mallopt(self, which: int, value: int) -> int:
            reported[which] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert keep_freed_pages() is True
    assert reported == {-3: HEAP_BODY_BYTES, -1: KEPT_BYTES}


def test_other_c_library_is_unchanged(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_pages() is False
