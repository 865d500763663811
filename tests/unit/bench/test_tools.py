"""Each tool of the rig that needs no servers runs, with little work, so that a change in src shows here."""

import asyncio
import inspect
import logging
from importlib import import_module

import pytest
from bench import workloads
from click.testing import CliRunner

bodies, in_process, tracing = (import_module(f"bench.{name}") for name in ("bodies", "in_process", "tracing"))

SMALLEST = {
    "bodies": {"SHAPES": bodies.SHAPES[:1], "ROUNDS": 1, "LATE_ROUNDS": 1},
    "holder": {"BATCHES": 1, "BATCH": 1},
    "in_process": {"BATCHES": 1, "BATCH": 10, "EVENTS": 1},
    "inspector": {"ROUNDS": 1, "READS": 1},
    "limits": {"ROUNDS": 1, "REQUESTS_OF_ROUND": 1},
    "scrape": {"ROUNDS": 1, "CALLERS": 8, "MODELS": 1},
    "transforms": {"ROUNDS": 1, "EVENTS": 64},
}
"""Constants of each tool. How fast it is found to be depends on the machine, so its verdict is not tested."""
WITH_OPTIONS = ("__main__", "profile", "tls", "tracing")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Keep bodies, and what a tool changes in the process, out of the other tests."""
    for module in (workloads, in_process):
        monkeypatch.setattr(module, "BODIES", tmp_path)
    monkeypatch.setattr(workloads, "CURVE_BODIES_KB", ())
    monkeypatch.setattr(workloads, "IMAGE_BYTES", 3)
    for name in ("freeze", "set_threshold"):
        monkeypatch.setattr(bodies.gc, name, lambda *_: None)
    root, ours = logging.getLogger(), logging.getLogger("gatepass")
    before = (list(root.handlers), root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize("name", SMALLEST)
def test_a_tool_without_servers_runs(name, monkeypatch, capsys):
    module = import_module(f"bench.{name}")
    for constant, value in SMALLEST[name].items():
        monkeypatch.setattr(module, constant, value)
    ran = module.main()
    if inspect.iscoroutine(ran):
        asyncio.run(ran)
    assert capsys.readouterr().out


def test_each_variant_of_the_tool_for_tracing_runs(monkeypatch):
    monkeypatch.setattr(tracing, "BATCHES", 1)
    monkeypatch.setattr(tracing, "BATCH", 1)
    workloads.write_bodies()
    assert [*asyncio.run(tracing.cpu_us())] == [*tracing.VARIANTS]


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_a_tool_with_options_shows_them(name):
    shown = CliRunner().invoke(import_module(f"bench.{name}").main, ["--help"])
    assert shown.exit_code == 0, shown.output
