"""Why a promise may be missed. The profile on the page is the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bench.promises import ALONE, EMBEDDINGS, PACED, SMALL, TLS

_CHAT = "A chat takes about 250 calls of Python functions. nginx needs 13 to 19 µs in all, depending on the machine."
_EVENT = (
    "Two system calls and a wake-up take half of the CPU time of a single event. The other half is about 15 calls of "
    "Python functions."
)
_VECTORS = (
    "gatepass holds the whole reply and checks its vectors before it sends a byte. This check takes a quarter of the "
    "CPU time. How fast nginx copies depends on the machine: bench/README.md compares two."
)
_FIRST = (
    "Before the first event gatepass checks the key, selects the rules and classifies the reply. The events of the "
    "other streams have replaced this code in the CPU caches."
)
_LATENCY = "Most of the latency is CPU time, as the table of this workload shows."

REASONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (SMALL, "requests/s"): _CHAT,
        (TLS, "small chat, requests/s"): _CHAT,
        (PACED, "CPU per event"): _EVENT,
        (TLS, "200 paced streams, CPU per event"): _EVENT,
        (PACED, "added delay, p99"): "One core relays the events of one moment one after the other.",
        (ALONE, "latency p50"): _LATENCY,
        (PACED, "TTFT added, p50"): _FIRST,
        (EMBEDDINGS, "MB/s"): _VECTORS,
        (TLS, "embeddings, MB/s"): _VECTORS,
    }
)
"""By the work and the measure."""
