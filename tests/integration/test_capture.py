"""`gatepass capture` over real sockets: what clients and upstreams send, and the memory at its end."""

import json
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.control import request
from gatepass.documents import Body
from gatepass.http_client.tls import TLSContexts
from gatepass.observability.capture import HELD_BYTES, CaptureSettings
from gatepass.proxy.app_state import AppState, next_app_state
from gatepass.server.inspection import stories
from tests.captured import texts
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import HELLO, STREAMED, Gateway, relaying
from tests.integration.processes import started
from tests.integration.scripted import Received, Scripted, Send, reply, stream
from tests.unit.clock import DrivenClock
from tests.waiting import until


async def story(state: AppState, request_id: str) -> dict[str, Any]:
    (found,) = await stories(state, request_id, bodies=True)
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return {**shown, "bodies": texts(found.bodies)} if found.bodies else shown


async def served(gp: Gateway, body: Any = HELLO) -> tuple[int, dict[str, Any]]:
    answer = await gp.ask(body).answer()
    await until(lambda: gp.state.in_flight.busy == 0)
    return answer.status, await story(gp.state, answer.headers["x-request-id"])


async def test_a_stream_is_kept_whole_also_after_a_cut_and_a_retry():
    events = [*(delta(content=f"word {number} ") for number in range(50)), delta("stop"), DONE]
    begun = stream(*events)

    def answer(request: Received) -> list[Send]:
        if b"temperature" in request.body:
            error = {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}
            return [Send(reply(error, 400))]
        return [Send(begun)]

    async with relaying(answer=answer) as (_, gp):
        gp.state.capture.start(CaptureSettings(model="m", caller="local"))
        _, found = await served(gp, {**STREAMED, "temperature": 1})
    refused, replied = found["bodies"]["replies"]
    assert "Unsupported parameter" in refused
    assert replied == b"".join(events).decode()
    assert "temperature" in found["bodies"]["request"]
    assert "temperature" not in found["bodies"]["sent"]


async def test_the_capture_outlives_the_ring_and_a_reload_and_its_memory_comes_back():
    clock = DrivenClock()
    async with relaying([Send(reply(COMPLETION))], clock=clock) as (_, gp):
        state = gp.state
        state.inspector.limit(0)
        state.capture.start(CaptureSettings(for_s=60.0))
        _, found = await served(gp, {**HELLO, "user": "x" * 200_000})
        gp.server.endpoint.use(next_app_state(state.config, TLSContexts(state.tls_contexts), state))
        _, later = await served(gp)
        assert (found["captured"], later["captured"]) == (True, True)
        assert state.in_flight.held.total_bytes == HELD_BYTES > state.capture.held_bytes > 200_000
        await clock.advance(60.0)
        assert state.in_flight.held.total_bytes == state.capture.held_bytes == 0
        assert await stories(state, found["id"], bodies=False) == []


def command(path: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(main, [*arguments, "--socket", str(path), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


async def test_the_command_starts_shows_and_stops_a_capture(tmp_path: Path):
    path = tmp_path / "own" / "control.sock"
    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1"}}
        configuration = {"server": {"control_socket": str(path), "drain_timeout_s": 30}, "upstreams": upstreams}
        async with started(tmp_path, configuration) as running:
            port = await running.port
            assert command(path, "capture")["running"] is False
            begun = command(path, "capture", "--model", "m", "--minutes", "5")
            assert (begun["running"], begun["model"]) == (True, "m")
            ids = await asked(port, 3)
            await until(lambda: command(path, "capture")["captured"] == 3)
            assert all(bodies_of(path, each)["request"] == json.dumps(HELLO) for each in ids)
            assert all(bodies_of(path, each)["replies"] == [json.dumps(COMPLETION)] for each in ids)
            ended = command(path, "capture", "--stop")
            assert (ended["running"], ended["held_bytes"], ended["captured"]) == (False, 0, 0)
            await running.logged(r'"event":"capture_ended","model":"m","ended_by":"stopped"')


async def asked(port: int, count: int) -> list[str]:
    """Send requests on connections of their own, and return their ids."""
    gp = Gateway(port, None, None)  # type: ignore[arg-type]  # only `ask` is used
    return [(await gp.ask(HELLO).answer()).headers["x-request-id"] for _ in range(count)]


def bodies_of(path: Path, request_id: str) -> dict[str, Any]:
    (found,) = json.loads(request("GET", f"/requests/{request_id}", str(path)))["stories"]
    return texts(msgspec.convert(found.get("bodies", ()), list[Body]))
