"""What /status tells: each credential as it stands now."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gatepass.proxy.app_state import Gate
from gatepass.tokens import Status


def status_of(gate: Gate) -> dict[str, Any]:
    """The state of one process, as plain JSON. Times are seconds; no token, key or secret is in it."""
    credentials = {name: _credential(gate, name, holder.status()) for name, holder in gate.holders.items()}
    live = gate.live
    return {"ready": gate.ready, "draining": live.draining, "under_way": live.busy, "credentials": credentials}


def _credential(gate: Gate, name: str, status: Status) -> dict[str, Any]:
    told = {field: _plain(value) for field, value in asdict(status).items() if field != "credential"}
    users = [hop.name for hop in gate.hops.values() if hop.settings.credential == name]
    return {"type": gate.config.credentials[name].type, "upstreams": users, **told}


def _plain(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
