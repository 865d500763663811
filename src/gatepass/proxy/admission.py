"""Admission: whether a request fits the limits of its end user, caller, group, model and upstream, and what it used.

`Admission.admit` reserves an estimate before the first attempt. `Admitted.end` replaces it by what was used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from heapq import nsmallest
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from gatepass.clock import Clock
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.config.use_limits import CALENDAR, RESERVED_OUTPUT_TOKENS, SPANS, UseLimits
from gatepass.errors import GatewayError, InvalidRequest, Limited, NotAllowed
from gatepass.json_body import elements, folded
from gatepass.json_body import kind as first_char
from gatepass.observability.metrics import MAX_NAMES, Labels
from gatepass.observability.observer import AccessRecord
from gatepass.policy.end_users import EndUsers
from gatepass.policy.windows import CONCURRENT, DAY_PARTS, END_USER, REQUESTS, TOKENS, Limit, Refused, Taken, Windows
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.body_threads import INLINE_BYTES, BodyThreads
from gatepass.proxy.retry import Outcome
from gatepass.types import OK, Call, Headers, counted, header

if TYPE_CHECKING:
    from gatepass.proxy.context import RequestContext
    from gatepass.proxy.routing import Route

PICTURE_TOKENS = 1_000
BYTES_PER_TOKEN = 4
UNSEEN = frozenset(("batches", "message_batches"))
"""The operations that carry work which no estimate sees."""
UNSEEN_ENDS = (Outcome.CLIENT_GONE, Outcome.TIMED_OUT, Outcome.DRAINED)
"""Ends before the reply: the upstream may go on, so the request counts its reservation."""
WARN_PERCENT = 80
"""From this part of the budget of a day or month on, responses carry a warning."""
OURS = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit", b"x-gatepass-limit-")
"""The beginnings of the fields that state limits: those of the upstream are replaced."""

Owner = tuple[str, str]
"""The kind of a subject (end_user, caller, group, model or upstream) and its name in the configuration."""
_PLACES: Mapping[str, str] = {
    END_USER: "access.keys[].end_users.limits",
    "caller": "access.keys[].limits",
    "group": "access.groups.NAME.limits",
    "model": "models.NAME.limits",
    "upstream": "upstreams.NAME.limits",
}


_ABSENT = msgspec.Raw()
MOST_ASKED = 2**53
"""What a larger number counts, and one that no float holds."""
READ_BYTES, NAME_CHARS = 64 * 1024, 32
"""The longest value of one of ASKED, and its longest name. A longer number counts as MOST_ASKED."""
ASKED = frozenset(
    (
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"),
        *("background", "user", "metadata"),
    )
)
"""The members that say how many tokens an answer may have, whether it comes with the response, and for whom."""


class _Part(msgspec.Struct, gc=False):
    """The members of a message, an item or a part of one that are a picture or a sound, or lead to some."""

    type: msgspec.Raw = _ABSENT
    content: msgspec.Raw = _ABSENT
    output: msgspec.Raw = _ABSENT
    image_url: msgspec.Raw = _ABSENT
    input_audio: msgspec.Raw = _ABSENT
    source: msgspec.Raw = _ABSENT
    images: msgspec.Raw = _ABSENT


_PARTS = msgspec.json.Decoder(list[_Part] | _Part)


def _pictures(text: msgspec.Raw, levels: int = 2) -> Iterator[int]:
    """Yield the bytes of each picture and sound in a list of messages, of items or of parts, and `levels` below."""
    try:
        found = _PARTS.decode(text)
    except (msgspec.DecodeError, RecursionError):  # such as a text, or a list of them
        return
    for one in found if isinstance(found, list) else (found,):
        source = one.source if bytes(memoryview(one.type)[:READ_BYTES]) == b'"image"' else _ABSENT
        yield from (memoryview(each).nbytes for each in (one.image_url, one.input_audio, source) if each is not _ABSENT)
        yield from _images(one.images)
        for inner in (one.content, one.output) if levels else ():
            if inner is not _ABSENT:
                yield from _pictures(inner, levels - 1)


def _images(text: msgspec.Raw) -> Iterator[int]:
    """Yield the bytes of each picture in the member `images`, a list or a picture (normalize/images.py)."""
    if text is not _ABSENT:
        yield from (memoryview(one).nbytes for one in (elements(text) if first_char(text) == "[" else (text,)))


def _value(text: msgspec.Raw) -> Any:
    """Return the value of one of ASKED."""
    try:
        return msgspec.json.decode(text) if memoryview(text).nbytes <= READ_BYTES else MOST_ASKED
    except (msgspec.DecodeError, RecursionError, ValueError):  # a number that no float holds
        return MOST_ASKED


class Size(msgspec.Struct, frozen=True, gc=False):
    """What a request may use: an estimate without a tokenizer."""

    input_tokens: int = 0
    output_tokens: int = 0
    """What the request asks for at most, 0 if it does not say."""
    answers: int = 1
    in_background: bool = False
    user: str = ""

    @classmethod
    def of(cls, call: Call, output_member: str = "max_tokens") -> Size:
        """Return the size of a call."""
        members, size_bytes = dict(call.opened().listed), len(call.body)
        lists = (members[name] for name in ("messages", "input") if name in members)
        pictures = [*chain(*map(_pictures, lists), _images(members.get("images", _ABSENT)))]
        tokens = math.ceil((size_bytes - sum(pictures)) / BYTES_PER_TOKEN) + len(pictures) * PICTURE_TOKENS
        values: dict[str, list[Any]] = {}
        for name, text in members.items():  # servers in Go read a name in any case
            if len(name) <= NAME_CHARS and (plain := folded(name)) in ASKED:
                values.setdefault(plain, []).append(_value(text))
        names = {"max_tokens": ("max_tokens", "max_completion_tokens"), "": ()}.get(output_member, (output_member,))
        output = max((_count(one) or 0 for name in names for one in values.get(name, ())), default=0)
        answers = max((_count(one) or 1 for name in ("n", "best_of") for one in values.get(name, ())), default=1)
        of_messages = [one.get("user_id") for one in values.get("metadata", ()) if isinstance(one, dict)]
        user = next((one for one in (*values.get("user", ()), *of_messages) if isinstance(one, str)), "")
        return cls(tokens, output, answers, any(one is True for one in values.get("background", ())), user)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return max(1, int(min(value, MOST_ASKED))) if is_count else None


Hit = Callable[[tuple[str, str], str, int], None]
"""As `Metrics.limit_hit`."""


class Admitted(msgspec.Struct, eq=False):
    """What one request has taken, until its end."""

    windows: Windows
    end_users: Windows
    hit: Hit
    limits: tuple[Limit, ...] = ()
    """Those of the client: not of the upstream."""
    tokens: int = 0
    input_tokens: int = 0
    generates: bool = False
    in_background: bool = False
    """The response comes before the answer, whose usage gatepass does not see."""
    of_upstream: Mapping[str, tuple[Limit, ...]] = {}
    taken: list[tuple[Windows, Taken]] = []
    at_target: Taken | None = None
    """What the current attempt has taken of its upstream."""
    refused: Refused | None = None

    async def take(self, of_end_user: Sequence[Limit], limits: Sequence[Limit], now_s: float) -> None:
        """Take all limits, those `of_end_user` in this process alone. `end` gives back what a refused request took.

        Raises InvalidRequest if they can never have room, Limited.
        """
        self.limits = (*of_end_user, *limits)
        for limit in self.limits:
            if limit.counts_tokens and self.tokens > limit.most:
                self.hit(limit.subject, limit.setting, 1)
                raise never_fits(limit, self.tokens)
        if of_end_user:
            self._took(self.end_users, self.end_users.take(of_end_user, self.tokens, now_s))
        self._took(self.windows, await self.windows.admit(limits, self.tokens, now_s))

    def _took(self, windows: Windows, result: Taken | Refused) -> None:
        if isinstance(result, Refused):
            raise limit_reached(self._note(result))
        self.taken = [*self.taken, (windows, result)]

    async def take_target(self, upstream: str, now_s: float) -> bool:
        """Take what an attempt uses of the quota of `upstream`. Return whether it has room."""
        if limits := self.of_upstream.get(upstream):
            if isinstance(result := await self.windows.admit(limits, self.tokens, now_s), Refused):
                self._note(result)
                return False
            self.at_target = result
        return True

    def _note(self, refused: Refused) -> Refused:
        self.refused = refused
        self.hit(refused.limit.subject, refused.limit.setting, 1)
        return refused

    def repeat_target(self, upstream: str, now_s: float) -> None:
        """Take the same for a repeat of an attempt, which does not wait for room."""
        if limits := self.of_upstream.get(upstream):
            result = self.windows.take(limits, self.tokens, now_s, is_forced=True)
            self.at_target = result if isinstance(result, Taken) else None

    def leave_target(self, now_s: float, access: AccessRecord | None, outcome: str, *, sent: bool) -> None:
        if (taken := self.at_target) is not None:
            self.at_target = None
            self.windows.settle(taken, self.used(access, outcome, sent=sent), now_s)

    def used(self, access: AccessRecord | None, outcome: str, *, sent: bool) -> int | None:
        """Return the tokens that an attempt used, None if it was not sent."""
        if access is not None and (usage := access.usage) is not None:
            total: int = usage.total_tokens or (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            return total
        if not sent:
            return None
        if access is None or (outcome in (Outcome.ERROR_REPLY, Outcome.TOKEN_REJECTED) and not access.events):
            return 0
        if self.in_background or (outcome in UNSEEN_ENDS and not access.events):
            return self.tokens
        # each event of a stream has about one token
        relayed = access.events or (access.bytes_out // BYTES_PER_TOKEN if access.status == OK else 0)
        return self.input_tokens + (relayed if self.generates else 0)

    def end(self, context: RequestContext, now_s: float) -> None:
        """Settle all that the request has taken, when it ends."""
        attempt, access = context.attempt, context.access
        outcome, sent = "", False
        if attempt is not None:
            outcome, sent = attempt.record.outcome, attempt.sent or attempt.sent_before
        tokens = self.used(access, outcome, sent=sent)
        self.leave_target(now_s, access, outcome, sent=sent)
        for windows, taken in self.taken:
            windows.settle(taken, tokens, now_s)
        if tokens and access.usage is None and any(limit.counts_tokens for limit in self.limits):
            access.tokens_estimated = tokens
        self.taken = []

    def replaced(self, fields: Iterable[tuple[bytes, bytes]], wall_s: float, *, is_messages: bool) -> Headers:
        """Return the fields of a response with those that state what is left, in place of the upstream's."""
        shown = [limit for limit in self.limits if limit.width_s]
        if not shown:
            return tuple(fields)
        kept = [field for field in fields if not field[0].startswith(OURS)]
        policies, states = list[str](), list[str]()
        for limit in shown:
            unit = ';qu="tokens"' if limit.counts_tokens else ""  # "requests" is the default
            policies.append(f'"{limit.name}";q={limit.most};w={limit.window[1]}{unit}')
            states.append(f'"{limit.name}";r={self._left(limit)};t={math.ceil(self._reset_s(limit, wall_s))}')
        kept += [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(states).encode())]
        for unit in (REQUESTS, TOKENS):
            ours = [limit for limit in shown if limit.unit == unit]
            if ours:
                # the one that the client reaches first
                limit = min(ours, key=lambda one: self._left(one) / one.most)
                reset_s = self._reset_s(limit, wall_s)
                numbers = {"limit": str(limit.most), "remaining": str(self._left(limit))}
                if is_messages:
                    reset = datetime.fromtimestamp(wall_s + reset_s, UTC).isoformat(timespec="seconds")
                    numbers["reset"] = reset.replace("+00:00", "Z")
                    named = {f"anthropic-ratelimit-{unit}-{word}": text for word, text in numbers.items()}
                else:
                    numbers["reset"] = f"{math.ceil(reset_s * 1000) / 1000:g}s"
                    named = {f"x-ratelimit-{word}-{unit}": text for word, text in numbers.items()}
                kept += [(name.encode(), text.encode()) for name, text in named.items()]
        used = [(one.name, 100 - math.ceil(100 * self._left(one) / one.most)) for one in shown if one.is_calendar]
        if warnings := [f"{name} {percent}%" for name, percent in used if percent >= WARN_PERCENT]:
            kept.append((b"x-gatepass-limit-warning", ", ".join(warnings).encode()))
        return tuple(kept)

    def _left(self, limit: Limit) -> int:
        return 0 if self.refused is not None and limit is self.refused.limit else limit.left

    def _reset_s(self, limit: Limit, wall_s: float) -> float:
        if self.refused is not None and limit is self.refused.limit:
            return self.refused.wait_s
        now_s = wall_s - limit.ahead_s
        return limit.period(limit.part(now_s))[1] - now_s if limit.is_calendar else limit.window[1]


def whose(limit: Limit) -> str:
    kind, name = limit.subject
    if kind == END_USER:
        return f"The end user of {name!r}"
    return "The model" if kind == "model" else f"The {kind} {name!r}"  # an entry of models may be a glob


def limit_text(limit: Limit) -> str:
    span = f" per {limit.window[0]}" if limit.width_s else " in progress"
    unit = "request" if limit.unit == CONCURRENT else limit.unit.removesuffix("s")
    return f"{counted(limit.most, unit)}{span}"


def limit_reached(refused: Refused) -> GatewayError:
    limit, wait_s = refused.limit, refused.wait_s
    place = f"{_PLACES[limit.owner[0]]}.{limit.setting}"
    if limit.unit == CONCURRENT:
        return Limited(
            "concurrency_limited",
            f"{whose(limit)} has reached its limit of {counted(limit.most, 'concurrent request')} ({place})."
            " Retry when one of them has ended.",
            retry_after_s=wait_s,
        )
    long = ((86_400, "d"), (3_600, "h"), (60, "min"))
    size_s, unit = next((one for one in long if wait_s > one[0]), (1, "s"))
    used = "used" if limit.unit == "requests" else "used or reserved"  # running requests reserve their tokens
    return Limited(
        "limit_reached",
        f"{whose(limit)} has {used} its limit of {limit_text(limit)} ({place})."
        f" Retry in {math.ceil(wait_s / size_s)} {unit}.",
        retry_after_s=wait_s,
    )


def never_fits(limit: Limit, tokens: int) -> InvalidRequest:
    return InvalidRequest(
        f"The request may use {tokens} tokens, and {whose(limit)[0].lower()}{whose(limit)[1:]} has a limit of"
        f" {limit_text(limit)} ({_PLACES[limit.owner[0]]}.{limit.setting}). Send a smaller max_tokens or a shorter"
        " input.",
        param="max_tokens",
    )


class Admission:
    """The limits of one configuration."""

    def __init__(
        self,
        config: Config,
        windows: Windows,
        clock: Clock,
        hit: Hit = lambda _subject, _setting, _count: None,
        end_users: EndUsers | None = None,
    ) -> None:
        """`hit` counts requests for which a limit had no room, at first none."""
        self.windows, self._clock, self._hit = windows, clock, hit
        self._end_users = end_users or EndUsers()
        self._quotas: dict[Owner, UseLimits] = {}
        named: list[tuple[str, str, UseLimits | None]] = [
            *((END_USER, key.name, key.end_users.limits) for key in config.access.keys if key.end_users is not None),
            *(("caller", key.name, key.limits) for key in config.access.keys),
            *(("group", name, group.limits) for name, group in config.access.groups.items()),
            *(("model", name, model.limits) for name, model in config.models.items()),
            *(("upstream", name, upstream.limits) for name, upstream in config.upstreams.items()),
        ]
        for kind, name, quota in named:
            if quota is not None:
                self._quotas[kind, name] = quota
        self._limits: dict[Owner, tuple[Limit, ...]] = {}
        """Made when they are first used: there may be thousands of callers."""

    def __bool__(self) -> bool:
        return bool(self._quotas)

    def limits_of(self, owner: Owner) -> tuple[Limit, ...]:
        if (quota := self._quotas.get(owner)) is None:
            return ()
        if owner not in self._limits:
            windows = self._end_users if owner[0] == END_USER else self.windows
            self._limits[owner] = tuple(map(windows.attach, made(owner, quota)))
            for limit in self._limits[owner]:
                self._hit(limit.subject, limit.setting, 0)
        for limit in self._limits[owner]:
            if limit.is_calendar:
                limit.ahead_s = self._clock.wall() - self._clock.now()
        return self._limits[owner]

    def all_limits(self) -> Iterator[Limit]:
        """Yield each limit, also of callers that have not sent a request yet."""
        for owner in self._quotas:
            yield from self.limits_of(owner)

    def budgets(self) -> dict[Labels, float]:
        """Return the part that is left of the limits of days and months that were used, of MAX_NAMES at most."""
        found, now_s = list[tuple[Labels, float]](), self._clock.now()
        for owner in self._limits:
            for limit in self.limits_of(owner):
                if limit.is_calendar:
                    others = limit.others if limit.others_of == limit.part(now_s) // DAY_PARTS else 0
                    left = max(0, limit.most - limit.used(now_s) - others) / limit.most
                    found.append(((*owner, limit.setting), left))
        return dict(nsmallest(MAX_NAMES, found, key=itemgetter(1)))

    async def admit(self, context: RequestContext, call: Call, route: Route, threads: BodyThreads) -> None:
        """Take what `call` may use, for `context`.

        Raises InvalidRequest, NotAllowed and Limited.
        """
        caller, operation = context.caller, call.operation
        limits = tuple(limit for owner in owners_of(caller, route.entry) for limit in self.limits_of(owner))
        shared = self.limits_of((END_USER, caller.name))
        upstreams = {target.upstream: self.limits_of(("upstream", target.upstream)) for target in route.targets}
        if not limits and not shared and not any(upstreams.values()):
            return
        counts_tokens = any(one.counts_tokens for ones in (shared, limits, *upstreams.values()) for one in ones)
        if (
            counts_tokens
            and operation.configured_as in UNSEEN
            and operation.configured_as not in (caller.operations or ())
        ):
            raise NotAllowed(
                "operation_not_allowed",
                f"The limits on tokens cannot count the work of {operation.configured_as}. To allow it without them,"
                f" name it in `operations` of the key of {caller.name!r} (access.keys[].operations).",
            )
        protocol = PROTOCOLS[operation.protocol]
        has_usage = protocol.uses_tokens and not operation.is_about_stored  # else it is that of another request
        if not has_usage:
            counts_tokens, limits = False, without_tokens(limits)
            upstreams = {name: without_tokens(ones) for name, ones in upstreams.items()}
        member = protocol.output_member
        size, generates = Size(), bool(member)
        if call.body and operation.configured_as not in UNSEEN and (counts_tokens or caller.end_users is not None):
            measure = partial(Size.of, call, member)
            is_small = len(call.body) <= INLINE_BYTES
            size = measure() if is_small else await threads.run_heavy(call.caller, measure)
        output = (size.output_tokens or RESERVED_OUTPUT_TOKENS) * size.answers * generates
        context.admitted = admitted = self._admitted()
        admitted.tokens, admitted.input_tokens = size.input_tokens + output, size.input_tokens
        admitted.generates, admitted.in_background, admitted.of_upstream = generates, size.in_background, upstreams
        own = self._of_end_user(context, size.user)
        await admitted.take(own if has_usage else without_tokens(own), limits, context.state.clock.now())

    async def admit_message(self, context: RequestContext) -> None:
        """Count a message to an MCP server as a request of its caller. Raises Limited."""
        limits = without_tokens(one for owner in owners_of(context.caller, "") for one in self.limits_of(owner))
        own = without_tokens(self._of_end_user(context, ""))
        if limits or own:
            context.admitted = admitted = self._admitted()
            await admitted.take(own, limits, context.state.clock.now())

    def _admitted(self) -> Admitted:
        return Admitted(self.windows, self._end_users, self._hit)

    def _of_end_user(self, context: RequestContext, name: str) -> Sequence[Limit]:
        """Return the limits of the end user, or those that all further users share."""
        declared, shared = context.caller.end_users, self.limits_of((END_USER, context.caller.name))
        if declared is None or not shared:
            return shared
        if declared.header is not None:
            found = header(context.client_request.headers, declared.header.lower().encode())
            name = (found or b"").decode("latin-1")
        return self._end_users.of(name, shared, self._clock.now()) if name else shared


def without_tokens(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    return tuple(limit for limit in limits if not limit.counts_tokens)


def owners_of(caller: AccessKey | None, entry: str) -> tuple[Owner, ...]:
    """Return whose limits apply to a request of `caller` for an entry of `models`, apart from its end user's."""
    own = () if caller is None else (("caller", caller.name), ("group", caller.group or ""))
    return (*own, ("model", entry))


def made(owner: Owner, quota: UseLimits) -> Iterator[Limit]:
    for unit, amounts in ((REQUESTS, quota.requests), (TOKENS, quota.tokens)):
        for span in SPANS:
            if amounts is not None and (most := getattr(amounts, span)) is not None:
                yield Limit(owner, unit, (span, SPANS[span]), most, is_calendar=span in CALENDAR)
    if quota.max_concurrent is not None:
        yield Limit(owner, CONCURRENT, ("", 0), quota.max_concurrent)
