"""Upstreams that refuse eight members of a request, one per call, in four dialects.

Each error names only the first refused member that the request still has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chain:
    """An upstream that refuses `members` in this order, and the request that it accepts in the end."""

    name: str
    members: tuple[str, ...]
    error: Callable[[str, Any], tuple[int, Any]]

    @property
    def request(self) -> dict[str, Any]:
        return {**ACCEPTED, **{name: VALUES[name] for name in self.members}}

    @property
    def accepted(self) -> dict[str, Any]:
        return ACCEPTED

    def refuse(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        for name in self.members:
            if name in body:
                return self.error(name, body[name])
        return None


ACCEPTED = {
    "model": "corp-chat",
    "messages": [
        {"role": "system", "content": "You summarise tickets."},
        {"role": "user", "content": "Summarise ticket 4711 in two sentences."},
    ],
    "stream": True,
}
VALUES: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.95,
    "seed": 11,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "user": "u-8812",
    "store": False,
    "metadata": {"team": "helpdesk"},
    "service_tier": "auto",
    "stream_options": {"include_usage": True},
    "reasoning_effort": "low",
    "verbosity": "low",
    "prompt_cache_key": "helpdesk-1",
    "safety_identifier": "c0ffee",
}


def by_param(name: str, value: Any) -> tuple[int, Any]:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    error = {"message": message, "type": "invalid_request_error", "param": name, "code": "unsupported_parameter"}
    return 400, {"error": error}


def by_loc(name: str, value: Any) -> tuple[int, Any]:
    row = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": value}
    return 422, {"detail": [row]}


def in_chinese(name: str, value: Any) -> tuple[int, Any]:
    return 400, {"error": {"code": "1210", "message": f"API 调用参数有误：当前模型不支持{name}参数，请检查文档。"}}


EVERYDAY = {
    "temperature": "temperature went out of the window last year",
    "seed": "We stopped planting: no seed, please",
    "frequency_penalty": "A frequency penalty? Our engine never repeats itself.",
    "user": "No need to introduce anybody, so spare us the field user",
    "metadata": "Keep your metadata at home",
    "stream_options": "streamOptions is more than this little server can chew",
    "verbosity": "You cannot turn the verbosity knob from outside",
    "prompt_cache_key": "prompt_cache_key opens nothing here",
}


def in_everyday_words(name: str, value: Any) -> tuple[int, Any]:
    return 400, {"error": EVERYDAY[name]}


CHAINS = (
    Chain(
        "openai",
        (
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "service_tier",
            "verbosity",
            "prompt_cache_key",
        ),
        by_param,
    ),
    Chain(
        "pydantic",
        (
            "stream_options",
            "store",
            "metadata",
            "reasoning_effort",
            "safety_identifier",
            "seed",
            "user",
            "service_tier",
        ),
        by_loc,
    ),
    Chain(
        "chinese",
        (
            "seed",
            "logit_bias",
            "user",
            "store",
            "presence_penalty",
            "reasoning_effort",
            "top_p",
            "stream_options",
        ),
        in_chinese,
    ),
    Chain("everyday", tuple(EVERYDAY), in_everyday_words),
)
