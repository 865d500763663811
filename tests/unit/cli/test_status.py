from typing import Any

from gatepass.cli.status import lines_of


def page(**store: Any) -> dict[str, Any]:
    return {"ready": True, "draining": False, "in_flight": 0, "credentials": {}, "store": store or None}


def test_a_store_that_shares_nothing_has_a_line_with_its_reason():
    assert list(lines_of(page())) == list(lines_of(page(state="up", reason=None)))
    *_, line = lines_of({"workers": {"worker-1": page(), "worker-2": page(state="down", reason="refused\nby it")}})
    assert line == "worker-2 store down: refused by it"
