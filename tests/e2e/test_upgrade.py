"""A rolling upgrade from each earlier version, and back, on one store: no request fails."""

import json
import time

import pytest

import gatepass
from tests.e2e.servers import ROOT
from tests.e2e.store.fleet import Clients
from tests.e2e.store.server import StoreServer
from tests.e2e.store.token_setup import LIFE_S, running_setup
from tests.release.test_upgrade import RELEASED, built

BESIDE_S = 2 * LIFE_S
"""How long both versions serve beside each other: two tokens."""


@pytest.mark.parametrize("version", RELEASED)
def test_no_request_fails_while_replicas_of_one_store_are_replaced_and_put_back(version, tmp_path):
    old, new = built(RELEASED[version], tmp_path), ROOT / "src"
    with StoreServer(tmp_path) as store, running_setup(store, 2, old) as it, Clients(it.fleet.ports, 4) as clients:
        fleet = it.fleet
        began_s = time.monotonic()
        assert f'"version":"{version}"' in fleet.output_of(0)
        fleet.source = new
        fleet.restart(0)
        assert f'"version":"{gatepass.__version__}"' in fleet.output_of(0)
        time.sleep(BESIDE_S)
        assert [json.loads(fleet.page(index, "/status"))["store"]["state"] for index in range(2)] == ["up", "up"]
        fleet.restart(1)
        fleet.source = old  # the rollback
        fleet.restart(1)
        time.sleep(LIFE_S)
        lives = (time.monotonic() - began_s) / LIFE_S
    assert clients.report.lost == []
    assert clients.report.served > 100
    assert it.servers.refused == 0
    # 0.1.0 names a credential by all its settings, so each version fetches its own tokens. Either does after about
    # three quarters of a life.
    assert it.servers.calls <= 2 * (1.5 * lives + 1)
    print(f"{clients.report.served} requests, {it.servers.calls} tokens in {lives:.1f} lives of a token")
