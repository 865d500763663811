"""Measure the memory that a piece of work keeps, so that a test of a bound needs no name of what keeps it."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TracedMemory:
    """Bytes that Python allocated inside `traced_memory`: still in use at its end, and at most."""

    kept_bytes: int = 0
    peak_bytes: int = 0


@contextmanager
def traced_memory() -> Iterator[TracedMemory]:
    """Trace the allocations of the block. Its figures are set at the end of the block."""
    traced = TracedMemory()
    gc.collect()
    tracemalloc.start()
    try:
        yield traced
        gc.collect()
        traced.kept_bytes, traced.peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside it nothing is collected that only the garbage collector would find."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
