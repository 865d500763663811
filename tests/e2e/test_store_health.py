"""gatepass processes over a real Redis or Valkey server: each fault of the store is visible.

`make store-faults` prints the figures.
"""

import json
import re
import time

from tests.e2e.store.fleet import Clients, Fleet
from tests.e2e.store.server import StoreServer
from tests.e2e.store.token_setup import running_setup
from tests.waiting import block_until

SEEN_S = 10.0
"""docs/operations/store.md: the time until a fault of the store is visible."""


def store_state(fleet: Fleet, index: int) -> tuple[str, str, float]:
    """The state and reason of /status, and `gatepass_store_up` of /metrics."""
    store = json.loads(fleet.page(index, "/status"))["store"]
    (up,) = re.findall(r"^gatepass_store_up (\S+)", fleet.page(index, "/metrics"), re.MULTILINE)
    return store["state"], store["reason"] or "", float(up)


def appears(fleet: Fleet, index: int, state: str, reason: str, event: str) -> float:
    """Wait until a fault is visible in all three places, and return how long it took."""
    began_s = time.monotonic()

    def visible() -> bool:
        found, shown_reason, up = store_state(fleet, index)
        return (
            found == state
            and reason in shown_reason
            and up == (state == "up")
            and f'"{event}"' in fleet.output_of(index)
        )

    block_until(visible, SEEN_S)
    return time.monotonic() - began_s


def test_a_store_that_does_not_share_is_visible_in_each_process_within_ten_seconds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with StoreServer(folder) as store, running_setup(store, 4) as it, Clients(it.fleet.ports, 4) as clients:
        fleet, right = it.fleet, (0, 1)
        took_s = {"start": max(appears(fleet, index, "up", "", "sharing_tokens") for index in range(4))}
        fleet.restart(2, encryption_key="a-key-that-no-other-process-of-the-tests-has")
        took_s["wrong key"] = appears(fleet, 2, "unreadable", "Set the same store.encryption_key", "store_unreadable")
        fleet.restart(3, password="wrong-password")
        took_s["wrong password"] = appears(fleet, 3, "down", "Check store.username and store", "store_unavailable")
        assert [store_state(fleet, index)[0] for index in right] == ["up", "up"]

        store.limit(1)
        took_s["full"] = max(
            appears(fleet, index, "down", "raise its maxmemory", "store_unavailable") for index in right
        )
        store.limit(0)
        took_s["not full"] = max(appears(fleet, index, "up", "", "store_available") for index in right)

        store.stop()
        took_s["stopped"] = max(appears(fleet, index, "down", "refused", "store_unavailable") for index in right)
        store.start()
        took_s["started"] = max(appears(fleet, index, "up", "", "store_available") for index in right)
        assert "wrong-password" not in fleet.output
        assert clients.report.lost == [], fleet.output
    times = ", ".join(f"{fault} {seconds:.1f} s" for fault, seconds in took_s.items())
    print(f"\nvisible after: {times}; {clients.report.served} requests served, 0 lost")
