"""A reload in a serving process: what it keeps, what it replaces, and what it refuses."""

import asyncio
import errno
import gc
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from gatepass.config.access import hash_key
from gatepass.config.load import LoadedConfig, load
from gatepass.documents import ReloadResult
from gatepass.http_client.pool import ConnectionPool
from gatepass.proxy import in_flight
from gatepass.proxy.app_state import create_app_state
from gatepass.server import reload
from gatepass.server.pages import status_of
from gatepass.server.reload import KEYS_LOST, ConfigSource, Reloader
from tests.integration.answers import COMPLETION, delta
from tests.integration.gateway import HELLO, Gateway, descriptors, serving
from tests.integration.issuer import corp, minted
from tests.integration.refusing import Refusing, no_stream
from tests.integration.scripted import Dialogue, Received, Scripted, Send, Wait, begin_stream, chunk, event, reply
from tests.waiting import until

GOOD = [Send(reply(COMPLETION))]


class Reloading:
    """A gatepass that serves `file`, and its events."""

    def __init__(self, served: Gateway, file: Path, events: list[dict[str, Any]]) -> None:
        self.served = served
        self.file = file
        self.events = events

    async def reload(self, trigger: Any = "command", **blocks: Any) -> ReloadResult:
        if blocks:
            self.file.write_text(json.dumps(blocks))
        assert isinstance(self.served.server.reloader, Reloader)
        return await self.served.server.reloader.reload(trigger)

    def count(self, outcome: str) -> float:
        lines = self.served.state.metrics.exposition().decode().splitlines()
        found = [line for line in lines if line.startswith(f'gatepass_reloads_total{{outcome="{outcome}"}}')]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append({"event": record.getMessage(), **getattr(record, "fields", {})})

    handler, log = Keeping(), logging.getLogger("gatepass.serve")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


Serve = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr(in_flight, "CHECK_CURRENT_S", 0.02)

    @asynccontextmanager
    async def serve(**blocks: Any) -> AsyncIterator[Reloading]:
        file = tmp_path / "gatepass.json"
        file.write_text(json.dumps(blocks))
        read = partial(load, str(file), {})
        loaded = read()
        async with serving(create_app_state(loaded.config), ConfigSource(loaded, read)) as served:
            yield Reloading(served, file, events)

    return serve


def tokens(upstream: Scripted) -> list[str]:
    return [dict(one.headers)["authorization"] for one in upstream.received]


async def test_reload_keeps_unchanged_parts_and_new_requests_use_the_changes(serve: Serve):
    async with Scripted(minted()) as issuer, Scripted(answer=lambda _: GOOD) as upstream:
        blocks = corp(issuer, upstream)
        async with serve(**blocks) as gatepass:
            assert (await gatepass.served.ask().answer()).status == 200
            for number in range(3):
                result = await gatepass.reload(**blocks, models={"m": {"upstream": "chat", "name": f"m-{number}"}})
                assert result == ReloadResult("reloaded", ("models",))
                assert (await gatepass.served.ask().answer()).status == 200
            assert await gatepass.reload() == ReloadResult("unchanged")
        assert [json.loads(one.body)["model"] for one in upstream.received] == ["m", "m-0", "m-1", "m-2"]
        assert (len(issuer.received), upstream.connections) == (1, 1)
    assert [one["changed"] for one in gatepass.events if one["event"] == "reloaded"] == [["models"]] * 3 + [[]]
    assert (gatepass.count("reloaded"), gatepass.count("unchanged"), gatepass.count("refused")) == (3, 1, 0)


async def test_a_static_header_in_a_file_changes_at_a_reload(serve: Serve, tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("first-key")
    async with Scripted(answer=lambda _: GOOD) as upstream:
        chat = {"base_url": upstream.url, "headers": {"Authorization": f"${{file:{key}}}"}}
        async with serve(upstreams={"chat": chat}, models={"m": {"upstream": "chat"}}) as gatepass:
            assert (await gatepass.served.ask().answer()).status == 200
            key.write_text("second-key")
            assert (await gatepass.served.ask().answer()).status == 200
            assert await gatepass.reload() == ReloadResult("reloaded", ("upstreams",))
            assert (await gatepass.served.ask().answer()).status == 200
        assert tokens(upstream) == ["first-key", "first-key", "second-key"]


async def test_a_parameter_in_a_file_changes_at_a_reload(serve: Serve, tmp_path: Path):
    parameter = tmp_path / "parameter"
    parameter.write_text("tenant-one")
    async with Scripted(answer=lambda _: GOOD) as upstream:
        chat = {"base_url": upstream.url, "query": {"tenant": f"${{file:{parameter}}}"}}
        async with serve(upstreams={"chat": chat}, models={"m": {"upstream": "chat"}}) as gatepass:
            assert (await gatepass.served.ask().answer()).status == 200
            parameter.write_text("tenant-two")
            assert await gatepass.reload() == ReloadResult("reloaded", ("upstreams",))
            assert (await gatepass.served.ask().answer()).status == 200
    assert [one.target.partition("?")[2] for one in upstream.received] == ["tenant=tenant-one", "tenant=tenant-two"]


async def test_learned_rules_belong_to_the_server_and_not_to_the_name_of_the_upstream(serve: Serve):
    """Another server behind the same name gets the client's bytes. After a return gatepass learns anew."""
    streamed = {**HELLO, "stream": True}
    async with Scripted(answer=Refusing([no_stream()])) as first, Scripted(answer=Refusing([])) as second:
        servers = {one: {"upstreams": {"chat": {"base_url": f"{one.url}/v1"}}} for one in (first, second)}
        async with serve(**servers[first]) as gatepass:
            state = gatepass.served.state
            assert (await gatepass.served.ask(streamed).answer()).headers["x-gatepass-adapted"] == "stream=synth"
            assert [one.rule.entry for one in state.learned_rules()] == ["stream=synth"]
            await gatepass.reload(**servers[second])
            assert "x-gatepass-adapted" not in (await gatepass.served.ask(streamed).answer()).headers
            assert json.loads(second.received[0].body) == streamed
            assert gatepass.served.server.endpoint.state.learned_rules() == []
            await gatepass.reload(**servers[first])
            assert (await gatepass.served.ask(streamed).answer()).headers["x-gatepass-adapted"] == "stream=synth"
    assert len(first.received) == 4


async def test_a_reload_lets_a_failing_credential_fetch_at_once(serve: Serve, logged_errors: list[str]):
    refused, token = reply({"error": "invalid_client"}, 401), reply({"access_token": "good-token-1", "expires_in": 300})
    is_repaired = False
    async with (
        Scripted(answer=lambda _: [Send(token if is_repaired else refused)]) as issuer,
        Scripted(GOOD) as upstream,
    ):
        async with serve(**corp(issuer, upstream)) as gatepass:
            answer = await gatepass.served.ask().answer()
            assert answer.status == 503
            assert "run `gatepass reload`: it fetches at once" in answer.json()["error"]["message"]
            is_repaired = True
            assert (await gatepass.reload("watch")).retried == ()
            assert await gatepass.reload() == ReloadResult("unchanged", retried=("corp",))
            assert (await gatepass.served.ask().answer()).status == 200
            assert await gatepass.reload("signal") == ReloadResult("unchanged")
        assert len(issuer.received) == 2
    assert [one.get("retried") for one in gatepass.events if one["event"] == "reloaded"] == [["corp"], None]
    logged_errors.clear()


async def test_a_changed_credential_fetches_once_and_the_old_one_closes_after_its_last_request(serve: Serve):
    go_on = asyncio.Event()
    first, last = delta(content="a"), delta("stop")

    def answered(request: Received) -> Dialogue:
        if not json.loads(request.body).get("stream"):
            return GOOD
        end = Send(chunk(last) + chunk(event("[DONE]")) + b"0\r\n\r\n")
        return [*begin_stream(), Send(chunk(first)), Wait(go_on), end]

    async with Scripted(minted("token-1"), minted("token-2")) as issuer, Scripted(answer=answered) as upstream:
        async with serve(**corp(issuer, upstream, client_secret="first-secret")) as gatepass:
            closed: list[str] = []
            gatepass.served.state.holders["corp"].on_close = lambda: closed.append("corp")
            async with gatepass.served.ask({"model": "m", "messages": [], "stream": True}) as stream:
                await stream.head()
                await stream.until(first)
                blocks = corp(issuer, upstream, client_secret="other-secret")
                assert await gatepass.reload(**blocks) == ReloadResult("reloaded", ("credentials",))
                assert (await gatepass.served.ask().answer()).status == 200
                assert tokens(upstream) == ["Bearer token-1", "Bearer token-2"]
                assert closed == []
                go_on.set()
                assert b"error" not in await stream.until(b"[DONE]")
            await until(lambda: closed == ["corp"])
        assert len(issuer.received) == 2


async def test_the_failures_of_an_upstream_end_with_the_settings_that_caused_them(serve: Serve):
    def upstream_of(served: Any) -> tuple[str, int, str | None]:
        shown = status_of(served.state).upstreams["chat"]
        return shown.health, shown.errors, getattr(shown.last_failed or shown.last_error, "code", None)

    async with Scripted(answer=lambda _: [Send(reply({"error": "no"}, 400))]) as upstream:
        wrong = {"chat": {"base_url": "http://127.0.0.1:1/v1"}}
        async with serve(upstreams=wrong, models={"m": {"upstream": "chat"}}) as gatepass:
            for _ in range(3):
                assert (await gatepass.served.ask().answer()).status == 502
            await until(lambda: not gatepass.served.state.in_flight.busy)
            await gatepass.reload(upstreams=wrong, models={"*": {"upstream": "chat"}})
            assert upstream_of(gatepass.served) == ("failing", 3, "upstream_connect")
            await gatepass.reload(
                upstreams={"chat": {"base_url": f"{upstream.url}/v1"}}, models={"*": {"upstream": "chat"}}
            )
            assert upstream_of(gatepass.served) == ("unknown", 3, None)
            assert (await gatepass.served.ask().answer()).status == 400
            await until(lambda: not gatepass.served.state.in_flight.busy)
            assert upstream_of(gatepass.served) == ("unknown", 3, None)


async def test_a_ca_file_that_was_replaced_is_used_although_no_setting_changed(
    serve: Serve, tmp_path: Path, logged_errors: list[str]
):
    """As at the renewal of a CA by a mounted secret."""
    first, second = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    first.cert_pem.write_to_path(str(file))
    async with serve(upstreams={"chat": {"base_url": "https://127.0.0.1:9", "network": {"ca_file": str(file)}}}) as one:
        assert (await one.reload()).outcome == "unchanged"
        second.cert_pem.write_to_path(str(tmp_path / "new.pem"))
        os.replace(tmp_path / "new.pem", file)
        assert await one.reload() == ReloadResult("reloaded", ("upstreams",))
    logged_errors.clear()


async def test_callers_change_and_settings_that_need_a_restart_are_named_and_not_used(
    serve: Serve, logged_errors: list[str]
):
    async with Scripted(GOOD) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": upstream.url}}}
        one = {"name": "one", "hash": hash_key("k" * 32)}
        two = {"name": "two", "hash": hash_key("l" * 32), "limits": {"max_concurrent": 1}}
        async with serve(**blocks) as gatepass:
            limits, server = {"connections": 10}, {"port": 1, "base_path": "/other"}
            access = {"keys": [one, two]}
            result = await gatepass.reload(**blocks, access=access, limits=limits, server=server)
            names = ("server", "limits")
            assert result == ReloadResult("reloaded", ("access",), names, warnings=result.warnings)
            assert [text.partition(":")[0] for text in result.warnings] == ["access.keys[1]"]
            assert gatepass.served.server.endpoint.state.config.limits.connections == 4000
            held = gatepass.served.state.in_flight.held
            assert held.caller_limit_bytes < held.limit_bytes
            assert (await gatepass.served.ask().answer()).status == 401
            headers = {"content-type": "application/json", "authorization": "Bearer " + "l" * 32}
            assert (await gatepass.served.ask(headers=headers).answer()).status == 200
            assert await gatepass.reload(**blocks) == ReloadResult("refused", problems=(KEYS_LOST,))
            assert (await gatepass.served.ask().answer()).status == 401
            daily = {"keys": [{**one, "limits": {"requests": {"day": 9}}}]}
            store = {"url": "valkey://127.0.0.1:9", "encryption_key": "QUJD" * 11}
            limited = await gatepass.reload(**blocks, access=daily, store=store)
            assert limited.problems[1:] == (reload.RESTART.format("store"),)
            gone = await gatepass.reload(**blocks, access={"keys": [one]})
            assert gone.changed == ("access",)
            assert (await gatepass.served.ask(headers=headers).answer()).status == 401
            watched = await gatepass.reload("watch", **blocks, access={"keys": [one]}, server={"port": 2})
            assert watched == ReloadResult("unchanged", needs_restart=("server",))
    restart, by_watch = [one for one in gatepass.events if one["event"] == "restart_needed"]
    assert restart["settings"] == list(names)
    assert by_watch["settings"] == ["server"]
    logged_errors.clear()  # those of the refused reload, which the result has


@pytest.mark.parametrize("own", [{}, {"profile": "plain", "models": ["m"]}])
async def test_a_second_caller_closes_stored_responses_at_a_reload_and_the_result_says_so(
    serve: Serve, own: dict[str, Any]
):
    body = {"model": "m", "input": "x", "previous_response_id": "resp_1"}
    answer = Send(reply({"id": "resp_2", "object": "response", "status": "completed", "output": []}))
    keys = [{"name": name, "hash": hash_key(name * 32), **own} for name in ("a", "b")]
    async with Scripted(answer=lambda _: [answer]) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
        async with serve(**blocks, access={"keys": keys[:1]}) as gatepass:

            async def statuses() -> list[int]:
                fields = {"content-type": "application/json", "authorization": f"Bearer {'a' * 32}"}
                asked = gatepass.served.ask(body, "/v1/responses", headers=fields)
                read = gatepass.served.ask(None, "/v1/responses/resp_1", method="GET", headers=fields)
                return [(await one.answer()).status for one in (asked, read)]

            assert await statuses() == [200, 200]
            result = await gatepass.reload(**blocks, access={"keys": keys})
            assert "previous_response_id" in "".join(result.warnings)
            assert await statuses() == [403, 403]
            again = await gatepass.reload(
                **blocks, access={"keys": [*keys, {**keys[1], "name": "c", "hash": hash_key("c" * 32)}]}
            )
            assert again.warnings == ()
            assert (await gatepass.reload(**blocks, access={"keys": keys[:1]})).warnings == ()
            assert await statuses() == [200, 200]


def connection_pools() -> list[ConnectionPool]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, ConnectionPool)]


async def test_no_request_fails_and_nothing_is_left_over_during_reloads_under_load(serve: Serve):
    failed: list[int] = []
    pools_before = len(connection_pools())
    async with Scripted(minted(life_s=3600)) as issuer, Scripted(answer=lambda _: GOOD) as upstream:
        blocks = corp(issuer, upstream)

        def numbered(number: int) -> dict[str, Any]:
            token = {"type": "static", "token": f"token-of-reload-{number}"}
            more = {"base_url": f"{upstream.url}/v{number}", "credential": "more"}
            return {
                "credentials": {**blocks["credentials"], "more": token},
                "upstreams": {**blocks["upstreams"], "more": more},
                "models": {"m": {"upstream": ("chat", "more")[number % 2]}},
            }

        def unused(number: int) -> dict[str, Any]:
            """Give both upstreams another URL, so that no pool has a connection after the reload."""
            upstreams = numbered(number)["upstreams"]
            moved = {name: {**upstreams[name], "base_url": f"{upstream.url}/unused{number}"} for name in upstreams}
            return {**numbered(number), "upstreams": moved}

        async with serve(**numbered(0)) as gatepass:
            stop = asyncio.Event()
            assert (await gatepass.served.ask().answer()).status == 200
            await gatepass.reload(**unused(0))
            await until(lambda: upstream.open == 0)
            open_before, tasks_before = descriptors(), len(asyncio.all_tasks())

            async def ask() -> None:
                while not stop.is_set():
                    if (status := (await gatepass.served.ask().answer()).status) != 200:
                        failed.append(status)

            asking = [asyncio.create_task(ask()) for _ in range(3)]
            for number in range(2, 50):
                await upstream.requested(len(upstream.received) + 1)
                assert (await gatepass.reload(**numbered(number))).outcome == "reloaded"
            stop.set()
            await asyncio.gather(*asking)
            await gatepass.reload(**unused(1))
            # well below the time after which idle connections close by themselves
            await until(lambda: descriptors() <= open_before and len(asyncio.all_tasks()) <= tasks_before)
            # each of the two upstreams has one pool; the timer of a replaced pool ends later
            await until(lambda: len(connection_pools()) <= pools_before + 2)
        assert len(issuer.received) == 1
        assert len(upstream.received) >= 48
    assert failed == []


SPOILED = {
    b"": "upstreams: is missing",
    b"upstreams:\n  chat:\n    base_url: 'https://llm": "gatepass.yaml:3",
    b"upstreams: {a: {base_url: 'https://x', headers: {X-A: '${NO_SUCH_NAME}'}}}\n": "NO_SUCH_NAME is not set",
    b"upstreams: {}\n# \xff\xfe\n": "is not UTF-8 text",
}
"""Contents of a configuration file, each with a part of the problem that names it."""


async def test_a_file_that_cannot_be_used_leaves_the_configuration_as_it_was(
    tmp_path: Path, events: list[dict[str, Any]], logged_errors: list[str]
):
    file = tmp_path / "gatepass.yaml"
    async with Scripted(GOOD) as upstream:
        file.write_text(f"upstreams: {{chat: {{base_url: '{upstream.url}'}}}}\n")
        read = partial(load, str(file), {})
        loaded = read()
        async with serving(create_app_state(loaded.config), ConfigSource(loaded, read)) as served:
            gatepass, state = Reloading(served, file, events), served.state
            for content, problem in SPOILED.items():
                file.write_bytes(content)
                result = await gatepass.reload()
                assert (result.outcome, result.changed) == ("refused", ()), content
                assert problem in "\n".join(result.problems), content
                assert served.server.endpoint.state is state
            file.unlink()
            assert "does not exist" in (await gatepass.reload()).problems[0]
            os.mkfifo(file)
            assert "it is not a regular file" in (await gatepass.reload()).problems[0]
            assert gatepass.count("refused") == len(SPOILED) + 2
            assert (await served.ask().answer()).status == 200
    refused = [one for one in events if one["event"] == "reload_refused"]
    assert len(refused) == len(SPOILED) + 2
    assert all(one["problems"] and one["file"] == str(file) for one in refused)
    logged_errors.clear()


KEYS: list[dict[str, Any]] = [
    {"name": "limited", "hash": hash_key("sk-limited"), "models": ["m"]},
    {"name": "other", "hash": hash_key("sk-other")},
]


async def test_a_reload_reads_the_keys_of_a_file_and_keeps_them_if_they_are_too_weak(
    serve: Serve, logged_errors: list[str], tmp_path: Path
):
    keys = tmp_path / "keys"
    keys.write_text("gp-the-old-key-0123456789")
    blocks = {
        "upstreams": {"chat": {"base_url": "https://llm.example/v1"}},
        "access": {"keys": [{"name": "rag", "key": f"${{file:{keys}}}"}]},
    }
    async with serve(**blocks) as it:
        keys.write_text("gp-the-new-key-0123456789")
        assert (await it.reload()).changed == ("access",)
        keys.write_text("short")
        assert (await it.reload()).outcome == "refused"
        logged_errors.clear()
        ring = it.served.server.endpoint.state.authenticator.keys
        found = [ring.find(f"gp-the-{one}-key-0123456789") for one in ("old", "new")]
        assert [one and one.name for one in found] == [None, "rag"]
        keys.write_text("gp-the-new-key-0123456789")
        assert (await it.reload()).outcome == "unchanged"


async def test_a_watched_file_applies_when_it_is_valid_and_equal_in_two_readings(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str], tmp_path: Path
):
    monkeypatch.setattr(reload, "WATCH_S", 0.02)
    blocks: dict[str, Any] = {"server": {"watch": True}, "upstreams": {"chat": {"base_url": "https://llm.example/v1"}}}

    def at(host: str) -> str:
        return json.dumps({**blocks, "upstreams": {"chat": {"base_url": f"https://{host}/v1"}}})

    async with serve(**blocks) as gatepass:
        state = gatepass.served.server.endpoint

        async def is_used(host: str) -> None:
            await until(lambda: state.state.config.upstreams["chat"].base_url == f"https://{host}/v1")

        gatepass.file.write_text(at("edited.example"))
        await is_used("edited.example")
        (tmp_path / "new").write_text(at("new.example"))
        (tmp_path / "new").replace(gatepass.file)
        await is_used("new.example")
        # a link to another file
        (tmp_path / "linked").write_text(at("linked.example"))
        (tmp_path / "link").symlink_to(tmp_path / "linked")
        (tmp_path / "link").rename(gatepass.file)
        await is_used("linked.example")
        assert (gatepass.count("reloaded"), gatepass.count("refused")) == (3, 0)
        for broken in ("nonsense: 1", None):
            if broken is None:
                gatepass.file.unlink()
            else:
                gatepass.file.write_text(broken)
            await until(lambda: bool(status_of(state.state).reload_problems))
            gatepass.file.write_text(at("created.example"))
            await is_used("created.example")
            await until(lambda: not status_of(state.state).reload_problems)
    logged_errors.clear()


KEYS = [
    {"name": "anna", "hash": f"sha256:{1:064}"},
    {
        "name": "watcher",
        "hash": f"sha256:{2:064}",
        "operations": ["models"],
        "mcp": {},
        "models": ["m"],
        "role": "viewer",
    },
]
WHOLE = f"""server: {{watch: true}}
upstreams: {{chat: {{base_url: "https://llm.example/v1"}}}}
access:
  keys:
    - name: anna
      hash: "{KEYS[0]["hash"]}"
    - name: watcher
      hash: "{KEYS[1]["hash"]}"
      operations: [models]
      mcp: {{}}
      models: [m]
      role: viewer
"""


@pytest.mark.parametrize("end", ["      role", "      models", "      mcp", "      operations", "    - name: watcher"])
async def test_a_watched_file_that_is_half_written_is_refused_until_it_changes(
    end: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
):
    monkeypatch.setattr(reload, "WATCH_S", 0.02)
    chat, half = {"base_url": "https://llm.example/v1"}, WHOLE[: WHOLE.index(end)]
    async with serve(server={"watch": True}, upstreams={"chat": chat}, access={"keys": KEYS}) as gatepass:
        endpoint = gatepass.served.server.endpoint
        reloader, before = gatepass.served.server.reloader, endpoint.state.config
        assert isinstance(reloader, Reloader)
        gatepass.file.write_text(WHOLE)
        assert await gatepass.reload() == ReloadResult("unchanged")
        gatepass.file.write_text(half)
        await until(lambda: endpoint.state.reload_problems == [reload.HALF_WRITTEN])
        assert endpoint.state.config is before
        gatepass.file.write_text(WHOLE)
        await until(lambda: not endpoint.state.reload_problems)
        assert endpoint.state.config is before
        gatepass.file.write_text(WHOLE.rstrip())
        await until(lambda: reloader.loaded.document.content == WHOLE.rstrip().encode())
        gatepass.file.write_text(f"{WHOLE}\n# a comment\n")
        await until(lambda: reloader.loaded.document.content.endswith(b"comment\n"))
        gatepass.file.write_text(WHOLE)
        await until(lambda: reloader.loaded.document.content == WHOLE.encode())
        gatepass.file.write_text(f"# edited\n{half}")
        await until(lambda: endpoint.state.config is not before)
    (refused,) = [one for one in gatepass.events if one["event"] == "reload_refused"]
    assert (refused["trigger"], refused["problems"]) == ("watch", [reload.HALF_WRITTEN])
    logged_errors.clear()


async def test_a_watched_file_that_is_half_written_only_while_it_is_read_is_read_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
):
    monkeypatch.setattr(reload, "WATCH_S", 0.02)
    chat, edited = {"base_url": "https://llm.example/v1"}, f"{WHOLE}# edited\n"
    async with serve(server={"watch": True}, upstreams={"chat": chat}, access={"keys": KEYS}) as gatepass:
        gatepass.file.write_text(WHOLE)
        await gatepass.reload()
        reloader = gatepass.served.server.reloader
        assert isinstance(reloader, Reloader)
        read, halves = reloader._source.read, [WHOLE[: WHOLE.index("      models")]]

        def read_while_written() -> LoadedConfig:
            if not halves:
                return read()
            gatepass.file.write_text(halves.pop())
            try:
                return read()
            finally:
                gatepass.file.write_text(edited)

        monkeypatch.setattr(reloader, "_source", ConfigSource(reloader.loaded, read_while_written))
        gatepass.file.write_text(edited)
        await until(lambda: reloader.loaded.document.content == edited.encode())
        assert gatepass.served.server.endpoint.state.reload_problems == []
    assert [one["event"] for one in gatepass.events if one["event"] == "reload_refused"] == ["reload_refused"]
    logged_errors.clear()


async def test_a_shorter_file_is_used_by_hand(serve: Serve):
    chat = {"base_url": "https://llm.example/v1"}
    async with serve(upstreams={"chat": chat}, access={"keys": KEYS}) as gatepass:
        gatepass.file.write_text(WHOLE)
        await gatepass.reload()
        gatepass.file.write_text(WHOLE[: WHOLE.index("    - name: watcher")])
        assert (await gatepass.reload()).changed == ("access",)


def raised(error: Exception) -> None:
    raise error


async def test_a_fault_of_the_reload_itself_is_logged_and_the_next_one_works(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
):
    async with serve(upstreams={"chat": {"base_url": "https://llm.example"}}) as gatepass:
        with monkeypatch.context() as patched:
            patched.setattr("gatepass.server.reload.changed_blocks", lambda *_: 1 // 0)
            assert (await gatepass.reload("watch")).outcome == "refused"
            patched.undo()
            gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "ca.pem")
            patched.setattr("gatepass.server.reload.TLSContexts", lambda _: raised(gone))
            problem = "a certificate of the configuration cannot be loaded: no such file or directory"
            assert (await gatepass.reload("watch")).problems == (problem,)
        assert (await gatepass.reload("watch")).outcome == "unchanged"
    assert [one["event"] for one in gatepass.events][:2] == ["reload_failed", "reload_refused"]
    logged_errors.clear()


async def test_a_key_that_a_reload_replaced_was_never_accepted(serve):
    """Its refusal is no sign of a fault behind the upstream, whatever the key before it was accepted for."""

    def answer(request: Received) -> Dialogue:
        is_good = (request.header("authorization") or "").endswith("good-key") and request.json()["model"] == "m"
        return GOOD if is_good else [Send(reply({"error": {"message": "no"}}, 401))]

    async with Scripted(answer=answer) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": upstream.url, "credential": "llm"}}}
        good, bad = ({"llm": {"type": "static", "token": f"sk-{one}-key"}} for one in ("good", "bad"))
        async with serve(**blocks, credentials=good) as it:
            assert (await it.served.ask().answer()).status == 200
            for credentials, is_told in ((good, True), (bad, False)):
                blocks["upstreams"]["chat"]["timeouts"] = {"idle_s": 90 + is_told}
                assert (await it.reload(**blocks, credentials=credentials)).outcome == "reloaded"
                refused = await it.served.ask({**HELLO, "model": "other"}).answer()
                assert (refused.status, "accepted it" in refused.error["message"]) == (401, is_told)
