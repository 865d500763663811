"""Figures of a fresh process: time to ready, idle memory, memory per slow stream, peak of a large body."""

from __future__ import annotations

from dataclasses import dataclass

from bench.candidates import Candidate
from bench.instance import Instance
from bench.paths import BODIES
from bench.processes import KIB, MB, clear_peak, peak_bytes, resident_bytes
from bench.rig import Rig
from bench.workloads import ONE_IMAGE, SLOW_STREAMS


@dataclass(frozen=True, slots=True)
class Footprint:
    """The figures of one start. None: not measured, or not every stream was held.

    - `stream_kib`: the memory that each of 1,000 slow streams adds
    - `peak_bodies`: the memory that one 4 MB request with its reply adds, as a multiple of its body
    """

    ready_s: float
    idle_mb: float
    stream_kib: float | None = None
    peak_bodies: float | None = None
    errors: float = 0


def footprint(candidate: Candidate, rig: Rig, *, is_complete: bool) -> Footprint:
    """Measure two fresh processes, so that freed memory of one figure does not hide the other.

    Without `is_complete`, measure one process and only `ready_s` and `idle_mb`.
    """
    with Instance(candidate, rig) as instance:
        ready_s, idle_mb = instance.ready_s, instance.idle_bytes / MB
        if not is_complete:
            return Footprint(ready_s, idle_mb)
        sample = instance.measure(SLOW_STREAMS, 1.0)
        grown_bytes = sample.memory_mb * MB - instance.idle_bytes
        stream_kib = None if sample.errors else grown_bytes / SLOW_STREAMS.connections / KIB
    with Instance(candidate, rig) as instance:
        return Footprint(ready_s, idle_mb, stream_kib, _peak_bodies(instance), sample.errors)


def _peak_bodies(instance: Instance) -> float:
    pids = instance.pids
    before = resident_bytes(pids)
    clear_peak(pids)
    instance.measure(ONE_IMAGE, 1.0)
    return (peak_bytes(pids) - before) / (BODIES / f"{ONE_IMAGE.body}.json").stat().st_size
