"""`limits` of a key, a group of keys, a model, an operation or an upstream: how much may be used, and of what."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from gatepass.config.block import Block, SettingFault

Amount = Annotated[int, Field(gt=0, le=4_000_000_000)]
SPANS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 31 * 86_400}
CALENDAR = ("day", "month")
RESERVE_OUTPUT_TOKENS = 1_000


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name; raise ValueError."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # a directory of zones, such as Europe, is an OSError
        raise ValueError("is not a time zone of this machine: write an IANA name, such as Europe/Berlin") from None


def _checked_zone(name: str) -> str:
    zone_of(name)
    return name


class Amounts(Block):
    """How much may be used in any span of the time, at each moment, and in each day and month of the calendar."""

    second: Amount | None = None
    """In any second.

    Unit: requests or tokens

    Example: 10
    """
    minute: Amount | None = None
    """In any minute.

    Unit: requests or tokens

    Example: 500
    """
    hour: Amount | None = None
    """In any hour.

    Unit: requests or tokens

    Example: 10000
    """
    day: Amount | None = None
    """From midnight to midnight in `time_zone`. Requires `store`.

    Unit: requests or tokens

    Example: 50000
    """
    month: Amount | None = None
    """In each month of the calendar in `time_zone`. Requires `store`.

    Unit: requests or tokens

    Example: 1000000
    """

    def faults(self) -> Iterator[SettingFault]:
        given = [(name, amount) for name in SPANS if (amount := getattr(self, name)) is not None]
        if not given:
            yield "", f"expects at least one of {', '.join(SPANS)}"
        for at, (name, amount) in enumerate(given):
            if any(longer <= amount for _, longer in given[at + 1 :]):
                yield name, "is never reached, because the limit of a longer time is not above it"


class Quota(Block):
    """Limits of what is sent to an upstream."""

    requests: Amounts | None = None
    """The most requests. Each second, minute and hour counts, not only a whole one of the clock.

    Example: {minute: 500}
    """
    tokens: Amounts | None = None
    """The most tokens, of requests and answers together. gatepass reserves an estimate before it sends a request, and
    replaces it by the usage that the reply reports. See docs/guides/limits.md.

    Example: {minute: 200000}

    Danger: An answer that is longer than its estimate may exceed the limit. The next requests then wait for the excess.
    """
    max_concurrent: Annotated[int, Field(gt=0)] | None = None
    """The most requests in progress. One more gets 429 `concurrency_limited`.

    Unit: requests

    Example: 20

    Danger: Clients that send many requests in parallel see 429.
    """
    time_zone: Annotated[str, AfterValidator(_checked_zone)] = "UTC"
    """The time zone of `day` and `month`, by its IANA name.

    Example: Europe/Berlin
    """
    mode: Literal["enforce", "observe"] = "enforce"
    """`observe`: nothing is refused, and the access line names the limits that would have refused the request
    (`over_limits`)."""

    def faults(self) -> Iterator[SettingFault]:
        if not self.model_fields_set - {"mode", "time_zone"}:
            yield "", "limits nothing"


class UseLimits(Quota):
    """Limits of what is used."""

    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of an answer that a request may ask for, by `max_tokens`, `max_completion_tokens` or
    `max_output_tokens`. A request that asks for more is a 400. None: no limit.

    Unit: tokens

    Example: 4096
    """
    default_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """What gatepass sends as `max_tokens` (`max_output_tokens` for the Responses API) if the client sends none. It is
    the rule `default=max_tokens` in `x-gatepass-adapted` and `gatepass show`. None: nothing.

    Unit: tokens

    Example: 2048

    Danger: An answer that would be longer ends with the finish reason `length`.
    """
    reserve_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """How many tokens of an answer are reserved for a request that does not limit them itself. None: 1000. If several
    limits apply, the one of the key wins over those of the group, the model and the operation, in this order.

    Unit: tokens

    Example: 500
    """

    def faults(self) -> Iterator[SettingFault]:
        yield from super().faults()
        most, default = self.max_output_tokens, self.default_output_tokens
        if most is not None and default is not None and default > most:
            yield "default_output_tokens", "is above max_output_tokens"
        reserve = self.reserve_output_tokens or default or RESERVE_OUTPUT_TOKENS
        least = min((n for n in (self.tokens.model_dump().values() if self.tokens else ()) if n), default=reserve)
        if least < reserve:
            fault = f"has room for {least} tokens, and a chat without max_tokens reserves {reserve}"
            yield "tokens", f"{fault}: set reserve_output_tokens to less"
