"""Start, stop and show a capture in all workers of this machine, for the control socket and the page of admins."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

import msgspec

from gatepass.auth.authenticator import LOCAL
from gatepass.config.model import Config
from gatepass.config.wording import did_you_mean
from gatepass.errors import InvalidRequest
from gatepass.observability.capture import CaptureSettings, merged_states
from gatepass.proxy.app_state import AppState
from gatepass.server.inspection import Collect

CAPTURE, START_CAPTURE, STOP_CAPTURE = "/capture", "/capture/start", "/capture/stop"
"""What the workers ask each other for: the state of the capture, perhaps after its start or end."""

LONGEST_S = 24 * 3600
FEWEST_BYTES, MOST_BYTES = 64 * 1024, 1024 * 1024 * 1024


class _Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /capture` accepts: the settings of a capture, with limits."""

    model: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    caller: str | None = None
    for_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)] = 600.0
    bytes: Annotated[int, msgspec.Meta(ge=FEWEST_BYTES, le=MOST_BYTES)] = 16 * 1024 * 1024


async def start_capture(collect: Collect, document: bytes, config: Config) -> dict[str, Any]:
    """Start the capture that the JSON `document` describes, in all workers. Return its state.

    Raises InvalidRequest, also for a caller that no key of `config` has. The operator is the caller `local`.
    """
    try:
        settings = msgspec.json.decode(document or b"{}", type=_Settings)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The settings of the capture are invalid: {error}.") from None
    names = sorted({LOCAL.name, *(key.name for key in config.access.keys)})
    if settings.caller is not None and settings.caller not in names:
        hint = did_you_mean(settings.caller, names)
        raise InvalidRequest(f"The caller {settings.caller[:100]!r} is not known{hint}", param="caller")
    given = {name: value for name, value in msgspec.to_builtins(settings).items() if value is not None}
    return await _state(collect, f"{START_CAPTURE}?{urlencode(given)}")


async def stop_capture(collect: Collect) -> dict[str, Any]:
    """End the capture in all workers, and return its state."""
    return await _state(collect, STOP_CAPTURE)


async def capture_state(collect: Collect) -> dict[str, Any]:
    """Return the state of the capture, summed over all workers."""
    return await _state(collect, CAPTURE)


async def _state(collect: Collect, target: str) -> dict[str, Any]:
    return merged_states(json.loads(part) for part in (await collect(target)).values())


def own_capture(target: str, state: AppState) -> bytes:
    """Do what `target` asks for in this process, and return the state of its capture."""
    path, _, query = target.partition("?")
    if path == START_CAPTURE:
        fields = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        found = msgspec.convert(fields, _Settings, strict=False)
        state.capture.start(CaptureSettings(found.model, found.caller, found.for_s, found.bytes))
    elif path == STOP_CAPTURE:
        state.capture.stop()
    return json.dumps(state.capture.state()).encode()


async def join_capture(collect: Collect, state: AppState) -> None:
    """Start the capture that runs in the other workers, for the rest of its time."""
    found = await capture_state(collect)
    if found["running"] and state.capture.settings is None and found["left_s"] > 0:
        settings = CaptureSettings(found["model"], found["caller"], found["left_s"], found["limit_bytes"])
        state.capture.start(settings)
