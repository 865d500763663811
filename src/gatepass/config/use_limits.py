"""`limits` of a key, its end users, a group of keys, a model or an upstream: the most requests and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Annotated

import msgspec
from pydantic import Field

from gatepass.config.block import Block, SettingFault, not_null

Amount = Annotated[int, Field(gt=0, le=4_000_000_000)]
DAY_S = 86_400
RESERVED_OUTPUT_TOKENS = 1_000
"""How many tokens are reserved for an answer if the request does not limit them."""


class Span(msgspec.Struct, frozen=True):
    """A time span in which use is counted."""

    longest_s: int
    first_day: Callable[[date], date] | None = None
    """For a calendar span, returns the first day of the span that contains a day."""


class Amounts(Block):
    """How much may be used in any minute, day and month."""

    # shortest span first; SPANS is derived from these lines

    minute: Annotated[Amount | None, Span(60), not_null()] = None
    """In any 60 s.

    Unit: requests or tokens

    Example: 500
    """
    day: Annotated[Amount | None, Span(DAY_S, lambda day: day), not_null()] = None
    """From midnight to midnight, UTC. Requires `store`.

    Unit: requests or tokens

    Example: 50000
    """
    month: Annotated[Amount | None, Span(31 * DAY_S, lambda day: day.replace(day=1)), not_null()] = None
    """In each calendar month, UTC. Requires `store`.

    Unit: requests or tokens

    Example: 1000000
    """

    def faults(self) -> Iterator[SettingFault]:
        given = [(name, amount) for name in SPANS if (amount := getattr(self, name)) is not None]
        if not given:
            yield "", f"expects at least one of {', '.join(SPANS)}"
        for at, (name, amount) in enumerate(given):
            # a day is within one month, but a minute may overlap two days
            most_of = 1 if SPANS[name].longest_s == DAY_S else 2
            if any(most_of * longer <= amount for _, longer in given[at + 1 :]):
                yield name, "is never reached, because the limit of a longer time is reached before"


SPANS = {name: span for name, field in Amounts.model_fields.items() for span in field.metadata if type(span) is Span}
CALENDAR = tuple(name for name, span in SPANS.items() if span.first_day is not None)


class UseLimits(Block):
    """Limits on use, summed over all processes that share a `store`."""

    requests: Annotated[Amounts | None, not_null()] = None
    """The most requests. `minute` is any 60 s, not a minute of the clock.

    Example: {minute: 500}
    """
    tokens: Annotated[Amounts | None, not_null()] = None
    """The most tokens, of requests and answers together. gatepass reserves an estimate before it sends a request, and
    replaces it with the usage that the reply reports. See docs/guides/limits.md.

    Example: {minute: 200000}

    Danger: An answer that is longer than its estimate may exceed the limit. The next requests then wait for the excess.
    """
    max_concurrent: Annotated[Annotated[int, Field(gt=0)] | None, not_null()] = None
    """The most requests in progress. One more gets 429 `concurrency_limited`.

    Unit: requests

    Example: 20

    Danger: Clients that send many requests in parallel see 429.
    """

    def faults(self) -> Iterator[SettingFault]:
        if not self.model_fields_set:
            yield "", "limits nothing"
        given = () if self.tokens is None else self.tokens.model_dump().values()
        least = min(filter(None, given), default=RESERVED_OUTPUT_TOKENS)
        if least < RESERVED_OUTPUT_TOKENS:
            reserved = f"a chat without max_tokens reserves {RESERVED_OUTPUT_TOKENS}"
            yield "tokens", f"has room for {least} tokens, and {reserved}"


OwnLimits = Annotated[UseLimits | None, not_null()]
