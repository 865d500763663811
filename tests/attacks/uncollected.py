"""gatepass in a process without a garbage collector: `python -m tests.attacks.uncollected SERVER CONFIG PORT`.

SERVER is `gatepass serve` or `uvicorn`. A line on standard input is a command, answered by a line on standard output:

- `report`: the resident memory in MiB, and the number of objects by type that only a collector would free.
- `drain`: end the requests in flight as a drain does, then serve again.
- `total`, `idle`: let the `total_s`, or the `idle_s`, of the stream in flight pass.
- `short`, `usual` NAME: set a time for which gatepass waits for a client, `RECEIVE_S` or `STALL_S`.
- `stop`: cancel the tasks of the requests in flight, as a process that stops without waiting does.

A request for the model `fault` fails inside gatepass.
"""

import asyncio
import gc
import json
import logging
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import IO, Any

import uvicorn

import gatepass
from gatepass.cli import main as run_command
from gatepass.http_client.connection import Deadline
from gatepass.proxy import handler
from gatepass.proxy.app_state import AppState
from gatepass.proxy.client_response import ClientResponse
from gatepass.proxy.context import Attempt
from gatepass.proxy.relay import relay
from gatepass.server import asgi, connection

SHORT_S = 1.0
USUAL_S = {name: getattr(connection, name) for name in ("RECEIVE_S", "STALL_S")}
FAR_S = 1000.0
"""A bound of an upstream that ends later is one that the test sets, and lets pass by a command."""
SUSPENDED = (GeneratorType, CoroutineType, AsyncGeneratorType)


def suspended() -> Counter[str]:
    return Counter(one.__qualname__ for one in gc.get_objects() if isinstance(one, SUSPENDED))


def resident_mib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024


async def report(state: AppState) -> dict[str, Any]:
    """Report in the turn of one task and while the threads rest, so that nothing ends between the two counts."""
    await state.body_threads.run_heavy("", int)  # the work of a cancelled request runs to its end
    for output in logging.getLogger().handlers:
        output.flush()
    mib, before = resident_mib(), suspended()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    left = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    left += before - suspended()  # a cycle that ends when its generator is closed is not in `gc.garbage`
    gc.garbage.clear()
    gc.set_debug(0)
    gc.collect()
    return {"mib": mib, "left": left}


async def drain(state: AppState) -> dict[str, Any]:
    await state.in_flight.drain(state.clock, 0)
    state.in_flight.draining = state.in_flight.refusing = False
    return {}


async def total(_: AppState) -> dict[str, Any]:
    for one in gc.get_objects():
        if isinstance(one, partial) and one.func is handler._end_late:
            one()
    return {}


async def idle(_: AppState) -> dict[str, Any]:
    """Wait until gatepass waits for more of the reply: it may still hand over what it has read."""
    now_s = asyncio.get_running_loop().time()
    while not (found := [one for one in gc.get_objects() if isinstance(one, Deadline) and is_far(one, now_s)]):
        await asyncio.sleep(0)
    found[0].at_s = now_s
    found[0]._fire()
    return {}


def is_far(deadline: Deadline, now_s: float) -> bool:
    return now_s + FAR_S < deadline.at_s < math.inf


async def set_bound(_: AppState, name: str, bound_s: float) -> dict[str, Any]:
    for module in (asgi, connection):
        setattr(module, name, bound_s)
    return {}


async def stop(_: AppState) -> dict[str, Any]:
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "") == handler.handle.__qualname__:
            task.cancel()
    return {}


COMMANDS: dict[str, Callable[[AppState], Coroutine[Any, Any, dict[str, Any]]]] = {
    "report": report,
    "drain": drain,
    "total": total,
    "idle": idle,
    **{f"short {name}": partial(set_bound, name=name, bound_s=SHORT_S) for name in USUAL_S},
    **{f"usual {name}": partial(set_bound, name=name, bound_s=bound_s) for name, bound_s in USUAL_S.items()},
    "stop": stop,
}


def serve_commands(state: AppState, loop: asyncio.AbstractEventLoop, answers: IO[str]) -> None:
    for line in sys.stdin:
        answer = asyncio.run_coroutine_threadsafe(COMMANDS[line.strip()](state), loop).result()
        print(json.dumps(answer), file=answers, flush=True)


async def relay_or_fail(classified: Any, attempt: Attempt, client_response: ClientResponse, *more: Any) -> None:
    call = client_response.context.call
    if call is not None and call.model == "fault":
        raise RuntimeError("a fault of gatepass")
    await relay(classified, attempt, client_response, *more)


def main() -> None:
    server, config, port = sys.argv[1:]
    answers, start = os.fdopen(os.dup(1), "w"), AppState.start
    os.dup2(2, 1)

    def start_with_commands(state: AppState) -> None:
        start(state)
        command_thread = (state, asyncio.get_running_loop(), answers)
        threading.Thread(target=serve_commands, args=command_thread, daemon=True).start()

    gc.disable()
    gc.enable = lambda: None
    # replaced in this process alone, so that the test reaches into it
    AppState.start = start_with_commands  # type: ignore[assignment, method-assign]
    handler.relay = relay_or_fail  # type: ignore[assignment, attr-defined]
    if server == "uvicorn":
        app = gatepass.create_app(gatepass.load_config(config))
        uvicorn.run(app, port=int(port), log_config=None, access_log=False, lifespan="on")
    else:
        run_command(["serve", "--config", config])


if __name__ == "__main__":
    main()
