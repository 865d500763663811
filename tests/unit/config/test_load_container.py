"""The memory limit of a container, from the cgroup files of both versions, and the budget that fits it."""

from __future__ import annotations

import pytest

from gatepass.config.load import Container, load, memory_limit_bytes

MIB = 1 << 20
UPSTREAM = {"GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1"}
V1_HOST = "11:pids:/docker/ab\n4:cpu,memory:/docker/ab\n1:name=systemd:/docker/ab\n0::/\n"

CASES = {
    "none": ({}, None),
    "version 2, in a container": (
        {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": f"{512 * MIB}\n"},
        512 * MIB,
    ),
    "version 2, nested": (
        {
            "/proc/self/cgroup": "0::/kube.slice/pod.slice/box\n",
            "/sys/fs/cgroup/kube.slice/pod.slice/box/memory.max": "max\n",
            "/sys/fs/cgroup/kube.slice/pod.slice/memory.max": f"{256 * MIB}\n",
            "/sys/fs/cgroup/kube.slice/memory.max": f"{8192 * MIB}\n",
        },
        256 * MIB,
    ),
    "version 1, path of the host": (
        {"/proc/self/cgroup": V1_HOST, "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{128 * MIB}\n"},
        128 * MIB,
    ),
    "version 1, own path": (
        {
            "/proc/self/cgroup": V1_HOST,
            "/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": f"{64 * MIB}\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        64 * MIB,
    ),
    "version 1, unlimited": (
        {"/proc/self/cgroup": V1_HOST, "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        None,
    ),
    "no number": ({"/proc/self/cgroup": "0::/\nx\n", "/sys/fs/cgroup/memory.max": "\n"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_smallest_limit_around_the_process_applies(name):
    files, limit_bytes = CASES[name]
    assert memory_limit_bytes(files.get) == limit_bytes


@pytest.mark.parametrize(
    ("memory_bytes", "workers", "held_bytes", "origin"),
    [
        (None, None, 512 * MIB, "default"),
        (4096 * MIB, None, 512 * MIB, "default"),
        (512 * MIB, None, 256 * MIB, "half of the container's memory"),
        (4096 * MIB, 8, 256 * MIB, "half of the container's memory / 8 workers"),
        (512 * MIB, 2, 80 * MIB * 8 // 9, "what fits the container's memory / 2 workers"),
        (256 * MIB, None, 80 * MIB * 8 // 9, "what fits the container's memory"),
    ],
)
def test_the_default_budget_is_half_of_the_container_by_worker_or_what_fits(memory_bytes, workers, held_bytes, origin):
    loaded = load(None, UPSTREAM, container=Container(memory_bytes, workers))
    assert loaded.config.limits.held_bytes == held_bytes
    assert loaded.origin(("limits", "held_bytes")) == origin
    assert loaded.warnings == ()


def test_workers_of_the_file_share_the_container_and_its_other_limits_count(tmp_path):
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://llm.corp.example/v1}}\nserver: {workers: 4}\n")
    assert load(str(file), {}, container=Container(1024 * MIB)).config.limits.held_bytes == 80 * MIB * 8 // 9
    sizes = {"GATEPASS_LIMITS_BODY_BYTES": "1048576", "GATEPASS_LIMITS_REPLY_BYTES": "1048576"}
    assert load(str(file), sizes, container=Container(1024 * MIB)).config.limits.held_bytes == 128 * MIB


@pytest.mark.parametrize(("memory", "workers", "held"), [(128, 1, 32), (40, 1, 20)])
def test_a_container_that_is_too_small_has_the_least_default_and_a_warning(memory, workers, held):
    loaded = load(None, UPSTREAM, container=Container(memory * MIB, workers))
    (warning,) = loaded.warnings
    assert loaded.config.limits.held_bytes == held * MIB
    assert f"has {memory} MiB: lower limits.body_bytes and limits.reply_bytes" in warning
    assert warning.endswith("or raise the memory limit")


def test_a_budget_that_is_set_wins_and_a_warning_names_what_does_not_fit():
    stated = {**UPSTREAM, "GATEPASS_LIMITS_HELD_BYTES": str(512 * MIB)}
    loaded = load(None, stated, container=Container(512 * MIB))
    assert loaded.config.limits.held_bytes == 512 * MIB
    (warning,) = loaded.warnings
    assert "752 MiB in 1 process," in warning
    fit_bytes = 336 * MIB * 8 // 9
    assert warning.endswith(f"512 MiB: limits.held_bytes: at most {fit_bytes} fits")
    fitting = {**UPSTREAM, "GATEPASS_LIMITS_HELD_BYTES": str(fit_bytes)}
    assert load(None, fitting, container=Container(512 * MIB)).warnings == ()


def test_every_limit_has_a_variable_that_overrides_the_file(tmp_path):
    file = tmp_path / "gatepass.yaml"
    file.write_text("upstreams: {chat: {base_url: https://llm.corp.example/v1}}\nlimits: {body_bytes: 7}\n")
    stated = {"GATEPASS_LIMITS_BODY_BYTES": "8", "GATEPASS_LIMITS_RECEIVE_S": "1.5", "GATEPASS_LIMITS_CONNECTIONS": "9"}
    loaded = load(str(file), stated)
    limits = loaded.config.limits
    assert (limits.body_bytes, limits.receive_s, limits.connections, loaded.warnings) == (8, 1.5, 9, ())
    assert loaded.origin(("limits", "body_bytes")) == "environment GATEPASS_LIMITS_BODY_BYTES"
