"""Why a promise may be missed, and what would lift it. The profile on the page is the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bench.bar import EMBEDDINGS, PACED, SMALL, TLS

_CHAT = (
    "A chat is some 250 calls of Python functions where nginx needs 13 to 19 µs in all; fewer calls lift it. "
    "One machine makes Python dear and the kernel cheap, another the other way."
)
_EVENT = (
    "An event that comes alone is two system calls and a wake-up, half of all it costs, and some fifteen calls of "
    "Python functions between the two sockets; fewer of these lift it."
)
_VECTORS = (
    "A reply is held whole, and its vectors are looked at before a byte of it goes on, which is a quarter of the call; "
    "the request's 64 KB are read too. The rest is what a small chat costs, and to move the bytes. How quick nginx is "
    "with its small pieces depends on the machine more than on that: bench/README.md has two."
)
_FIRST = (
    "A stream's first event waits for key, rules, token and judge: code that runs once in 2 ms, out of caches that the "
    "events of the other streams have filled, and behind those of the same moment. Less code lifts it."
)

WHY: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (SMALL, "requests/s"): _CHAT,
        (TLS, "small chat, requests/s"): _CHAT,
        (PACED, "CPU per event"): _EVENT,
        (TLS, "200 paced streams, CPU per event"): _EVENT,
        (PACED, "added delay, p99"): "Events of one moment go one after the other on one core; cheaper events lift it.",
        (PACED, "TTFT added, p50"): _FIRST,
        (EMBEDDINGS, "MB/s"): _VECTORS,
        (TLS, "embeddings, MB/s"): _VECTORS,
    }
)
"""By the work and the measure."""
