"""Two gatepass with one real store: they count together, and go on alone while the store is stopped or absent."""

import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gatepass.clock import SystemClock
from gatepass.config.model import Config
from gatepass.proxy.app_state import create_app_state
from gatepass.server.inspection import limits_of
from gatepass.server.pages import status_of
from gatepass.store import guarded
from gatepass.store.guarded import StoreState, open_store
from tests.integration.gateway import HELLO, Gateway, serving
from tests.integration.scripted import Scripted
from tests.integration.store.real_server import INSTALLED, RealServer, real_server
from tests.integration.test_callers_of_rows import by, issuer, token, write_keys
from tests.integration.test_limits import EMBEDDINGS, GOOD, access, ask, vectors
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(params=INSTALLED)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealServer]:
    with real_server(tmp_path, request.param) as running:
        yield running


@asynccontextmanager
async def replicas(
    server: RealServer,
    count: int = 2,
    end_users: Any = None,
    callers: Any = None,
    answer: Any = None,
    rules: Any = None,
) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        upstreams = [
            await stack.enter_async_context(Scripted(answer=answer) if answer else Scripted(GOOD)) for _ in "ab"
        ]
        quota = {"limits": {"requests": {"minute": 4}}}
        users = {} if end_users is None else {"end_users": end_users}
        blocks = {
            "server": {"drain_timeout_s": 0},
            "store": server.settings(),
            "upstreams": {name: {"base_url": one.url, **quota} for name, one in zip("ab", upstreams, strict=True)},
            "models": {
                "m": {"upstream": "b", "limits": {"requests": {"day": 1_000}}, "rules": rules or {}},
                "two": {"targets": [{"upstream": "a"}, {"upstream": "b"}]},
            },
            "access": callers or access(group={"requests": {"minute": 3}, "max_concurrent": 3}, **users),
        }
        config, clock = Config.model_validate(blocks), SystemClock()
        yield [
            await stack.enter_async_context(serving(create_app_state(config, clock, open_store(config.store, clock))))
            for _ in range(count)
        ]


async def statuses(gates: list[Gateway], times: int = 1, **body: Any) -> list[int]:
    return [(await ask(gate, {**HELLO, **body})).status for _ in range(times) for gate in gates]


async def test_replicas_share_the_limits_of_groups_models_and_upstreams(server):
    async with replicas(server) as gates:
        first = await ask(gates[0], {**HELLO, "model": "two"})
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert await statuses(gates, 2, model="two") == [200, 200, 429, 429]
        rows = {(row.of, row.limit): row.used for row in (await limits_of(gates[1].state)).limits}
        assert rows["group/all", "requests.minute"] == rows["upstream/a", "requests.minute"] == 3
        assert rows["group/all", "max_concurrent"] == 0
        for gate in gates:
            assert gate.state.admission is not None
            for limit in gate.state.admission.all_limits():
                limit.most = 10 if limit.owner == ("group", "all") else limit.most
        # the upstream `a` has room for one more
        assert await statuses(gates, 2, model="two") == [200, 200, 200, 200]
        rows = {(row.of, row.limit): row.used for row in (await limits_of(gates[0].state)).limits}
        assert (rows["upstream/a", "requests.minute"], rows["upstream/b", "requests.minute"]) == (4, 3)


async def test_the_further_requests_of_a_split_call_are_a_debt_in_all_replicas(server):
    async with replicas(server, answer=vectors, rules={"split": 1}) as gates:
        body = {"model": "m", "input": ["x"] * 4}
        assert (await ask(gates[0], body, EMBEDDINGS)).status == 200
        await until(lambda: not gates[0].state.in_flight.busy)
        for gate in gates:  # the first one tells the store what it owes before it asks
            rows = {(row.of, row.limit): row.used for row in (await limits_of(gate.state)).limits}
            assert rows["group/all", "requests.minute"] == rows["model/m", "requests.day"] == 4
        assert (await ask(gates[1], body, EMBEDDINGS)).status == 429


async def test_each_replica_counts_its_end_users_and_the_store_has_none_of_them(server):
    async with replicas(server, end_users={"limits": {"requests": {"minute": 1}}}) as gates:
        assert await statuses(gates, 2, model="two", user="zoe") == [200, 200, 429, 429]
        rows = {(row.of, row.limit): row.used for row in (await limits_of(gates[0].state)).limits}
        assert rows["group/all", "requests.minute"] == 2, "what an end user may not send counts nowhere else"
        with server.client() as client:  # the minutes of the group and of the upstream
            assert len({key.rpartition(b":")[0] for key in client.scan_iter("gatepass:{limits}:*")}) == 2


async def test_replicas_count_each_caller_by_a_token_together_and_the_store_has_no_subject(server, tmp_path):
    monthly = {"limits": {"requests": {"month": 3}}}
    callers = {"jwt": [issuer(write_keys(tmp_path), monthly)]}
    async with replicas(server, callers=callers) as gates:
        clock_s = gates[0].state.clock.wall()
        fields = {name: by(token(clock_s, name)) for name in ("zoe", "yan")}
        order = ("zoe", "zoe", "zoe", "zoe", "yan", "yan", "zoe")
        found = [
            (await gate.ask({**HELLO, "model": "two"}, headers=fields[name]).answer()).status
            for name, gate in zip(order, [*gates * 3, gates[1]], strict=True)
        ]
        assert found == [200, 200, 200, 429, 200, 200, 429]
        rows = {(row.of, row.limit): row.used for row in (await limits_of(gates[1].state)).limits}
        assert rows["jwt/people", "requests.month"] == 3
        with server.client() as client:
            keys = b" ".join(client.scan_iter("gatepass:*"))
    assert b"subject" not in keys


async def test_a_stopped_store_delays_one_request_and_what_was_used_meanwhile_counts_later(server, monkeypatch):
    async with replicas(server) as gates:
        assert await statuses(gates) == [200, 200]
        server.send(signal.SIGSTOP)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(guarded, "BOUND_S", 0.25)
                found = await statuses(gates, 3)
            assert found == [200, 200, 200, 200, 429, 429]  # each has sent three of its own
            for gate in gates:
                assert status_of(gate.state).limits_without_store
                assert b"gatepass_limits_store_up 0.0" in gate.state.metrics.exposition()
        finally:
            server.send(signal.SIGCONT)
        await until(lambda: all(gate.state.counts.fault is None for gate in gates))
        assert not any(status_of(gate.state).limits_without_store for gate in gates)
        rows = {(row.of, row.limit): row.used for row in (await limits_of(gates[1].state)).limits}
        assert rows["group/all", "requests.minute"] >= 6
        assert await statuses(gates) == [429, 429]


async def test_what_a_store_refused_a_replica_stays_refused_when_it_is_gone(server, monkeypatch):
    """The second replica has sent nothing itself."""
    async with replicas(server) as gates:
        assert await statuses([gates[0]], 3) == [200, 200, 200]
        assert await statuses([gates[1]]) == [429]
        server.send(signal.SIGSTOP)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(guarded, "BOUND_S", 0.25)
                refused = await ask(gates[1])
            assert refused.status == 429
            assert 0 < int(refused.headers["retry-after"]) <= 60
            assert status_of(gates[1].state).limits_without_store
        finally:
            server.send(signal.SIGCONT)


@pytest.mark.parametrize("command", ["zadd", "expire", "mget"])
async def test_a_user_that_may_not_count_limits_has_limits_of_its_process_until_it_may(server, caplog, command):
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", f"-{command}")
        async with replicas(server, 1) as gates:
            store = gates[0].state.store
            assert store is not None
            assert await statuses(gates, 4) == [200, 200, 200, 429]
            assert re.search(r"(?i)permi|can't run", str(gates[0].state.counts.fault))
            client.execute_command("ACL", "SETUSER", "default", f"+{command}")
            await until(lambda: gates[0].state.counts.fault is None)
            assert store.health.state is StoreState.UP
    assert [record.message for record in caplog.records].count("limits_without_store") == 1
