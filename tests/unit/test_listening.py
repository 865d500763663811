"""The file descriptors that connections need: how many, and what is logged while none is free."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from gatepass.config.model import Config
from gatepass.listening import AcceptWatch, descriptor_limit, has_free_descriptor

UPSTREAM = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture
def none_free() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whether_a_descriptor_is_free_is_found_out(none_free: None) -> None:
    assert not has_free_descriptor()


def test_a_descriptor_is_free_and_none_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    assert has_free_descriptor()
    assert os.listdir("/proc/self/fd") == before


def test_one_line_a_minute_says_how_often_none_was_free() -> None:
    watch, told = AcceptWatch(), []
    for tenth in range(1300):
        now_s = tenth / 10
        if watch.is_due(now_s) and (count := watch.failed(now_s)) is not None:
            told.append((now_s, count))
    assert told == [(0.0, 1), (60.0, 60), (120.0, 60)]


def test_the_limit_of_descriptors_is_the_soft_one() -> None:
    assert descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(
    ("blocks", "descriptors"),
    [
        ({}, 4001 + 1000 + 4000 + 64),
        ({"limits": {"connections": 100}}, 100 + 1 + 25 + 100 + 64),
        ({"limits": {"connections": 100, "unauthenticated_connections": 7}}, 100 + 1 + 7 + 100 + 64),
        ({"upstreams": {"a": {**UPSTREAM, "max_connections": 30}}}, 4000 + 1 + 1000 + 30 + 64),
        ({"upstreams": {"a": UPSTREAM, "b": UPSTREAM}, "models": {"*": {"upstream": "a"}}}, 4001 + 1000 + 4001 + 64),
    ],
)
def test_what_the_limits_need(blocks: dict[str, object], descriptors: int) -> None:
    config = Config.model_validate({"upstreams": {"a": UPSTREAM}, **blocks})
    assert config.descriptors == descriptors
