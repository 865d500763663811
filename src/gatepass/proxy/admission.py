"""Admission: whether a request fits the limits of its end user, caller, group, model and upstream, and what it used.

`Admission.admit` reserves an estimate before the first attempt. `Admitted.end` replaces it with the actual use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from heapq import nsmallest
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from gatepass.auth.caller import Caller, callers_of_rows
from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.config.use_limits import RESERVED_OUTPUT_TOKENS, SPANS, UseLimits
from gatepass.errors import GatewayError, InvalidRequest, Limited, NotAllowed
from gatepass.json_body import UNCOUNTED_BYTES, Members, elements, has_more, lacks, members, searched
from gatepass.json_body import kind as first_char
from gatepass.normalize.members import OBJECTS, REQUEST, BoundsPlace, bounds_output, plain_name
from gatepass.observability.metrics import MAX_NAMES, Labels
from gatepass.observability.observer import AccessRecord
from gatepass.policy.limits import (
    CONCURRENT,
    END_USER,
    JWT,
    NOTHING,
    REQUESTS,
    TOKENS,
    Amounts,
    Counts,
    Limit,
    Refused,
    Subjects,
    Taken,
)
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.body_threads import INLINE_BYTES, BodyThreads
from gatepass.proxy.retry import Outcome
from gatepass.types import Call, counted, header, wait_text

if TYPE_CHECKING:
    from gatepass.proxy.context import RequestContext
    from gatepass.proxy.routing import Route

PICTURE_TOKENS = 1_000
BYTES_PER_TOKEN = 4
EVENT_BYTES = 320
"""The size of an event's envelope. An event up to this size is counted as one token, because most upstreams send one
token per event."""
REFUSALS = (Outcome.ERROR_REPLY, Outcome.TOKEN_REJECTED)
"""Outcomes of a request that used nothing, unless a stream had begun."""
UNSEEN = "batches"
"""Operations on batches: gatepass cannot estimate the work in them."""
LONGEST_MINUTE_S = 60.0
"""The longest wait that is reported for a limit per minute, although it may have room up to 5 s later. openai's SDKs
for Node (7.55) and for Python (1.109) ignore a longer wait and make all their retries at once."""
WARN_PERCENT = 80
"""Responses carry a warning once this share of a daily or monthly limit is used."""
OURS = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit", b"x-gatepass-limit-")
"""Prefixes of header fields that state limits. gatepass replaces the upstream's."""
_FIELDS: Mapping[tuple[str, bool], tuple[bytes, ...]] = {
    (unit, is_messages): tuple(
        (f"anthropic-ratelimit-{unit}-{word}" if is_messages else f"x-ratelimit-{word}-{unit}").encode()
        for word in ("limit", "remaining", "reset")
    )
    for unit in (REQUESTS, TOKENS)
    for is_messages in (False, True)
}

Owner = tuple[str, str]
"""The kind of a subject (end_user, caller, jwt, group, model or upstream) and its name in the configuration."""
_PLACES: Mapping[str, str] = {
    END_USER: "access.keys[].end_users.limits",
    "caller": "access.keys[].limits",
    JWT: "access.jwt[].callers[].limits",
    "group": "access.groups.NAME.limits",
    "model": "models.NAME.limits",
    "upstream": "upstreams.NAME.limits",
}


_ABSENT = msgspec.Raw()
MOST_ASKED = 2**53
"""Replaces larger numbers, and numbers that no float can hold."""
MOST_USED = 2**32
"""Cap on the tokens that one reply may report, because an upstream may report any number."""
MOST_PARTS = 200_000
"""The most objects of a list that is searched for pictures. So many take 25 ms, during which no other thread runs."""
READ_BYTES = 64 * 1024
"""The longest value of an ASKED member that is parsed. A longer one is read as MOST_ASKED."""
ANSWERS = frozenset(("n", "bestof", "numreturnsequences", "candidatecount"))
ASKED = ANSWERS | {"prompt", "background", "user", "metadata"}
"""The members, by `plain_name`, that state how many answers there may be, whether they come with the response, and
which user they are for. Those of `bounds_output` state how long one may be."""
_UNBUILT, _BACKSLASH = (list, dict, msgspec.Raw), ord("\\")
_UNREAD = frozenset(("model", "messages", "input", "stream", "temperature", "top_p", "tools", "tool_choice"))
"""Members of most requests that are none of these, which saves the calls of `plain_name`."""


def _asked(listed: Members, place: BoundsPlace = REQUEST) -> Iterator[tuple[str, Any]]:
    """Yield each asked member of `listed`, repeated ones too: some servers read the first value, others the last."""
    for name, text in listed:
        if (plain := plain_name(name)) in ASKED or place.bounds(plain):
            yield plain, _prompts(text) if plain == "prompt" else _value(text)
        elif place.reads(plain) and first_char(text) == "{":
            inner = members(text)
            if (inner_place := place.inner(plain, [name for name, _ in inner])) is not None:
                yield from _asked(inner, inner_place)


class _Part(msgspec.Struct, gc=False):
    """The members of a message, an item or a part that are, or may contain, a picture or a sound."""

    type: msgspec.Raw = _ABSENT
    content: msgspec.Raw = _ABSENT
    output: msgspec.Raw = _ABSENT
    image_url: msgspec.Raw = _ABSENT
    input_audio: msgspec.Raw = _ABSENT
    source: msgspec.Raw = _ABSENT
    images: msgspec.Raw = _ABSENT
    """A list, or one picture (normalize/images.py)."""


_PARTS = msgspec.json.Decoder(list[_Part] | _Part)
_OF_PICTURES = searched(r'"image(_url|s)?"|"input_audio"|\\u00[5-7]')
"""The members and the type of pictures and sounds, and the escapes in which such a name may hide."""


def _pictures(part: _Part, levels: int = 3) -> Iterator[int]:
    """Yield the bytes of each picture and sound in `part`, and in the lists `levels` below it.

    In a list of more than MOST_PARTS, pictures are measured as text.
    """
    own = [part.image_url, part.input_audio]
    if bytes(memoryview(part.type)[:READ_BYTES]) == b'"image"':
        own.append(part.source)
    own += elements(part.images) if part.images is not _ABSENT and first_char(part.images) == "[" else [part.images]
    yield from (memoryview(one).nbytes for one in own if one is not _ABSENT)
    for text in (part.content, part.output) if levels else ():
        if text is _ABSENT or first_char(text) not in "[{":  # most are texts, and an exception takes longer
            continue
        if memoryview(text).nbytes > UNCOUNTED_BYTES and has_more(text, b"{", MOST_PARTS):
            continue
        try:
            found = _PARTS.decode(text)
        except (msgspec.DecodeError, RecursionError):  # such as a list of texts
            continue
        for one in found if isinstance(found, list) else (found,):
            yield from _pictures(one, levels - 1)


def _prompts(text: msgspec.Raw) -> int:
    """Return the number of prompts in `prompt`: a list of texts or token lists, or one text or token list."""
    return max(1, sum(first_char(one) in ('"', "[") for one in (elements(text) if first_char(text) == "[" else ())))


def _value(text: msgspec.Raw) -> Any:
    """Return the value of one of ASKED."""
    try:
        return msgspec.json.decode(text) if memoryview(text).nbytes <= READ_BYTES else MOST_ASKED
    except (msgspec.DecodeError, RecursionError, ValueError):  # such as a number that no float can hold
        return MOST_ASKED


class Size(msgspec.Struct, frozen=True, gc=False):
    """What a request may use: an estimate without a tokenizer."""

    input_tokens: int = 0
    output_tokens: int = 0
    """The most that the request allows, 0 if it states no limit."""
    answers: int = 1
    in_background: bool = False
    """The response arrives before the answer is generated, so gatepass does not see the usage."""
    user: str = ""

    @classmethod
    def of(cls, call: Call) -> Size:
        """Return the size of a call. A form has the size of a picture, a batch has none."""
        if not call.body or call.operation.configured_as == UNSEEN:
            return cls(PICTURE_TOKENS if call.operation.takes_form and not call.body else 0)
        opened, tokens = call.opened(), -(-len(call.body) // BYTES_PER_TOKEN)
        # to open an agent's 301 messages took 0.7 ms, the search takes 20 µs; most chats need two searches of few bytes
        # `find`, because `in` first raises and catches an exception for more than one byte (CPython 3.11)
        may_have = call.body.find(b'"i') >= 0 or (_BACKSLASH in call.body and call.body.find(b"\\u00") >= 0)
        if "images" in opened.values or (may_have and not lacks(call.body, _OF_PICTURES)):
            top = dict(opened.listed)
            content, output, images = (top.get(name, _ABSENT) for name in ("messages", "input", "images"))
            pictures = [*_pictures(_Part(content=content, output=output, images=images))]
            tokens = math.ceil((len(call.body) - sum(pictures)) / BYTES_PER_TOKEN) + len(pictures) * PICTURE_TOKENS
        named = [(plain_name(name), one) for name, one in opened.values.items() if name not in _UNREAD]
        asked: list[tuple[str, Any]] = [
            (name, one)
            for name, one in named
            if name in ASKED or bounds_output(name) or (type(one) in _UNBUILT and name in OBJECTS)
        ]
        unbuilt = [name for name, one in asked if name == "prompt" or type(one) in _UNBUILT]
        if unbuilt or len(opened.names) > len(opened.values):  # the texts of a small body take another pass
            asked = [*_asked(opened.listed)]
        most = max([_count(one) for name, one in asked if name not in ASKED], default=0)
        rest = [(name, one) for name, one in asked if name in ASKED]
        if not rest:  # nearly always: saves what follows
            return cls(tokens, most)
        answers = max([1, *(_count(one) for name, one in rest if name in ANSWERS)])
        answers *= max([1, *(one for name, one in rest if name == "prompt")])
        users = [one for name, one in rest if name == "user"]
        users += [one.get("user_id") for name, one in rest if name == "metadata" and isinstance(one, dict)]
        user = next((one for one in users if isinstance(one, str)), "")
        return cls(tokens, most, answers, any(_is_meant(one) for name, one in rest if name == "background"), user)


def _is_meant(value: Any) -> bool:
    """Whether a server may read `value` as true. Some servers accept a text or a number."""
    return bool(value) and not (isinstance(value, str) and value.lower() in ("false", "no", "off", "0"))


def _count(value: Any) -> int:
    """Return a positive number or 0, also from a text because some servers accept one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    return max(1, int(min(value, MOST_ASKED))) if type(value) in (int, float) and value > 0 else 0


Hit = Callable[[tuple[str, str], str, int], None]
"""As `Metrics.limit_hit`."""


class Admitted(msgspec.Struct, eq=False):
    """The amounts that one request has reserved, until it ends."""

    counts: Counts
    end_users: Counts
    """The limits that only this process counts."""
    hit: Hit
    size: Size
    tokens: int
    """How many tokens the request reserves."""
    generates: bool
    limits: tuple[Limit, ...] = ()
    """The limits of the end user, caller, group and model, without the upstream's."""
    due: tuple[Limit, ...] = ()
    """The part of `limits` that is taken together with the limits of the first upstream."""
    counted: tuple[Limit, ...] = ()
    """Limits that counted the request before its large body was read. They keep the count in any case."""
    counts_tokens: bool = False
    of_upstream: Mapping[str, tuple[Limit, ...]] = {}
    taken: list[tuple[Counts, Taken]] = []
    at_target: list[Taken] = []
    """The upstream quota that the current attempt has taken: for its first request, then for further ones."""
    refused: Refused | None = None

    async def take(self, of_end_user: Sequence[Limit], limits: Sequence[Limit], now_s: float) -> None:
        """Reserve an amount under all limits, for `of_end_user` in this process only. `end` returns it after a refusal.

        If an upstream has limits, `take_target` reserves under `limits` later. Raises InvalidRequest if a limit can
        never have room, and Limited.
        """
        self.limits = (*of_end_user, *limits)
        self._check_fits(self.limits, TOKENS, self.tokens)
        if of_end_user:
            result = self.end_users.take(of_end_user, self._amounts(), now_s)
            if isinstance(result, Refused):
                raise limit_reached(self._note(result), self.tokens)
            self.taken = [(self.end_users, result)]
        self.due = tuple([limit for limit in limits if limit not in self.counted] if self.counted else limits)
        if not any(self.of_upstream.values()):
            await self.take_target("", now_s)

    def _check_fits(self, limits: Sequence[Limit], unit: str, amount: int) -> None:
        for limit in limits:
            if limit.unit == unit and amount > limit.most:
                self.hit(limit.subject, limit.setting, 1)
                raise never_fits(limit, amount)

    def _amounts(self, requests: int = 1) -> Amounts:
        return {REQUESTS: requests, TOKENS: self.tokens, CONCURRENT: 1}

    async def take_target(self, upstream: str, now_s: float) -> Refused | None:
        """Reserve an attempt's amounts under the limits of `upstream`, and under those that are due.

        Return the refusal if the upstream has no room; its wait is `inf` if the request is too large. Raises Limited.
        """
        due, limits = self.due, self.of_upstream.get(upstream, ())
        result = await self.counts.admit((*due, *limits), self._amounts(), now_s)
        if isinstance(result, Refused):
            result = self._note(result)
            limit = result.limit
            if limit in due:
                raise limit_reached(result, self.tokens)
            return Refused(limit, math.inf) if limit.counts_tokens and self.tokens > limit.most else result
        own, of_upstream = result.split(len(due)) if limits else (result, Taken(()))
        self.due, self.taken, self.at_target = (), [*self.taken, (self.counts, own)], [of_upstream] if limits else []
        return None

    async def take_parts(self, upstream: str, parts: int, now_s: float) -> None:
        """Take the quota of `upstream` for the further requests of a call that is sent in `parts`.

        Raises InvalidRequest if a limit can never have room, and Limited.
        """
        limits = tuple(limit for limit in self.of_upstream.get(upstream, ()) if limit.unit == REQUESTS)
        self._check_fits(limits, REQUESTS, parts)
        result = await self.counts.admit(limits, self._amounts(parts - 1), now_s)
        if isinstance(result, Refused):
            raise limit_reached(self._note(result), self.tokens)
        self.at_target = [*self.at_target, result]

    def _note(self, refused: Refused) -> Refused:
        """Record and return the refusal, with the wait that is reported to the client."""
        if not refused.limit.is_calendar:
            refused = Refused(refused.limit, min(refused.wait_s, LONGEST_MINUTE_S))
        self.refused = refused
        self.hit(refused.limit.subject, refused.limit.setting, 1)
        return refused

    def repeat_target(self, upstream: str, now_s: float) -> None:
        """As `take_target`, for a repeat of an attempt. A repeat does not wait for room."""
        result = self.counts.take(self.of_upstream.get(upstream, ()), self._amounts(), now_s, is_forced=True)
        self.at_target = [result] if isinstance(result, Taken) else []

    def raise_output(self, tokens: int, now_s: float) -> None:
        """Reserve an answer of up to `tokens`, because a learned rule raised its limit. It is sent in any case."""
        more = (tokens - self.size.output_tokens) * self.size.answers * self.generates
        if more <= 0 or not self.counts_tokens:
            return
        self.size, self.tokens = replace(self.size, output_tokens=tokens), self.tokens + more
        for counts, taken in (*self.taken, *((self.counts, one) for one in self.at_target)):
            limits = [limit for limit, _, _ in taken.found]
            counts.settle(taken, NOTHING, now_s)
            again = counts.take(limits, self._amounts(), now_s, is_forced=True)
            if isinstance(again, Taken):
                taken.found, taken.places = again.found, again.places

    def leave_target(
        self, now_s: float, access: AccessRecord | None, outcome: str, *, sent: bool, requests: int = 1
    ) -> None:
        """Settle the upstream quota of an attempt that sent so many `requests`."""
        first, self.at_target = self.at_target, []
        used = self.used(access, self._reported(access), outcome, sent=sent) if first else NOTHING
        for taken in first:
            self.counts.settle(taken, used, now_s)
            used = {**used, REQUESTS: used[REQUESTS] * max(0, requests - 1)}

    def used(self, access: AccessRecord | None, reported: int, outcome: str, *, sent: bool) -> Amounts:
        """Return what an attempt used: one request, and its tokens. `reported`: those that the upstream reports."""
        if not reported and not sent:
            return NOTHING
        tokens, is_open = reported, outcome != Outcome.COMPLETE or (self.size.in_background and not reported)
        if access is not None and (outcome not in REFUSALS or access.events) and (is_open or not reported):
            more_bytes = max(0, access.bytes_out - EVENT_BYTES * access.events)
            tokens = self.size.input_tokens + (access.events + more_bytes // BYTES_PER_TOKEN) * self.generates
            if is_open:  # the upstream may go on
                tokens = max(tokens, self.tokens, reported)
        return {REQUESTS: 1, TOKENS: tokens if 0 <= tokens <= MOST_USED else MOST_USED * (tokens > 0), CONCURRENT: 0}

    def _reported(self, access: AccessRecord | None) -> int:
        return 0 if access is None or access.usage is None else access.usage.used(generates=self.generates)

    def end(self, context: RequestContext, now_s: float) -> None:
        """Settle everything that the request has reserved. Call it when the request ends.

        The further requests of a split call are debt of its caller, group and model.
        """
        attempt, access = context.attempt, context.access
        outcome, sent, requests, reported = "", False, 0, self._reported(access)
        if attempt is not None:
            sent, record = attempt.sent or attempt.sent_before, attempt.record
            outcome, requests = record.outcome, record.requests
        self.leave_target(now_s, access, outcome, sent=sent, requests=requests)
        used = self.used(access, reported, outcome, sent=sent)
        if attempt is not None and attempt.ran_before and not reported:
            used = {**used, TOKENS: max(used[TOKENS], self.tokens)}
        for counts, taken in self.taken:
            counts.settle(taken, used, now_s)
        if used[TOKENS] and not reported and any(limit.counts_tokens for limit in self.limits):
            access.tokens_estimated = used[TOKENS]
        self.taken = []
        if attempt is None or not (record.parts or record.after):  # nearly always: saves what follows
            return
        if parts := sum(max(0, min(len(one.parts), one.requests) - 1) for one in context.attempts()):
            # also those of `counted`, whose large body was counted as one request
            owing = [one for one in self.limits if one.unit == REQUESTS and one.owner[0] != END_USER]
            self.counts.take(owing, {REQUESTS: parts}, now_s, is_forced=True)

    def replace_in(self, fields: list[tuple[bytes, bytes]], wall_s: float, *, is_messages: bool) -> None:
        """Replace the upstream's limit fields among the header `fields` of a response by those of gatepass."""
        shown = [limit for limit in self.limits if limit.span_s]
        if not shown:
            return
        if b" ".join([name for name, _ in fields]).find(b"limit") >= 0:  # nearly never: one search of all names
            fields[:] = [field for field in fields if not field[0].startswith(OURS)]
        states, warnings = [], []
        first: dict[str, tuple[float, Limit, int, float]] = {}
        knows_others, refused = self.counts.fault is None, self.refused
        for limit in shown:
            left, reset_s = max(0, limit.most - limit.use.total - knows_others * limit.others), float(limit.span_s)
            if refused is not None and limit is refused.limit:  # other processes may have used more meanwhile
                left, reset_s = min(left, self.tokens - 1) if limit.counts_tokens else 0, refused.wait_s
            elif limit.is_calendar:
                now_s = wall_s - limit.ahead_s
                reset_s = limit.end_s(limit.part(now_s)) - now_s
            if limit.is_calendar and (percent := 100 - math.ceil(100 * left / limit.most)) >= WARN_PERCENT:
                warnings.append(f"{limit.name} {percent}%")
            states.append(f'"{limit.name}";r={left};t={math.ceil(reset_s)}')
            # of each unit the limit that the client reaches first
            if limit.unit not in first or left / limit.most < first[limit.unit][0]:
                first[limit.unit] = (left / limit.most, limit, left, reset_s)
        policies = ", ".join([limit.policy for limit in shown])
        fields += ((b"ratelimit-policy", policies.encode()), (b"ratelimit", ", ".join(states).encode()))
        for unit, (_, limit, left, reset_s) in sorted(first.items()):
            reset = limit.texts[1] if reset_s == limit.span_s else b"%gs" % (math.ceil(reset_s * 1000) / 1000)
            if is_messages:
                at = datetime.fromtimestamp(wall_s + reset_s, UTC).isoformat(timespec="seconds")
                reset = at.replace("+00:00", "Z").encode()
            most_name, left_name, reset_name = _FIELDS[unit, is_messages]
            fields += ((most_name, limit.texts[0]), (left_name, b"%d" % left), (reset_name, reset))
        if warnings:
            fields.append((b"x-gatepass-limit-warning", ", ".join(warnings).encode()))


def whose(limit: Limit) -> str:
    kind, name = limit.subject
    if kind == END_USER:
        return f"The end user of {name!r}"
    if kind == JWT:
        return f"This caller of {name!r}"
    is_glob = kind == "model" and any(char in name for char in "*?[")
    return f"The entry {name!r} of `models`" if is_glob else f"The {kind} {name!r}"


def place_of(limit: Limit) -> str:
    """Return the setting of a limit, such as `models.gpt-4o.limits.requests.minute`."""
    kind, name = limit.owner
    return f"{_PLACES[kind].replace('NAME', name)}.{limit.setting}"


def limit_text(limit: Limit) -> str:
    span = f" per {limit.span}" if limit.span else " in progress"
    unit = "request" if limit.unit == CONCURRENT else limit.unit.removesuffix("s")
    return f"{counted(limit.most, unit)}{span}"


def limit_reached(refused: Refused, tokens: int) -> GatewayError:
    """Return the error of a request that would reserve so many `tokens`."""
    limit, wait_s = refused.limit, refused.wait_s
    place = place_of(limit)
    if limit.unit == CONCURRENT:
        return Limited(
            "concurrency_limited",
            f"{whose(limit)} has reached its limit of {counted(limit.most, 'concurrent request')} ({place})."
            " Retry when one of them has ended.",
            retry_after_s=wait_s,
            setting=place,
        )
    has, less = "used", ""
    if limit.counts_tokens:  # running requests reserve their tokens
        has, less = f"no room for {tokens} more tokens in", ", or send a smaller max_tokens"
    return Limited(
        "limit_reached",
        f"{whose(limit)} has {has} its limit of {limit_text(limit)} ({place}). Retry in {wait_text(wait_s)}{less}.",
        retry_after_s=wait_s,
        setting=place,
    )


def never_fits(limit: Limit, amount: int) -> InvalidRequest:
    does, advice, param = f"is sent as {amount} requests", "Send fewer inputs in one call", "input"
    if limit.counts_tokens:
        does, advice, param = f"may use {amount} tokens", "Send a smaller max_tokens or a shorter input", "max_tokens"
    return InvalidRequest(
        f"The request {does}, and {whose(limit)[0].lower()}{whose(limit)[1:]} has a limit of {limit_text(limit)}"
        f" ({place_of(limit)}). {advice}.",
        param=param,
    )


class Admission:
    """The limits of one configuration."""

    def __init__(
        self,
        config: Config,
        counts: Counts,
        clock: Clock,
        hit: Hit = lambda _subject, _setting, _count: None,
        end_users: Subjects | None = None,
        of_rows: Subjects | None = None,
    ) -> None:
        """`hit` counts the requests that each limit refused. It is first called with 0, for the metric.

        `of_rows` has the callers by tokens.
        """
        self.counts, self._clock, self._hit = counts, clock, hit
        self._end_users = end_users or Subjects()
        self._of_rows = of_rows or Subjects(are_invented=False)
        named: list[tuple[str, str, UseLimits | None]] = [
            *((END_USER, key.name, key.end_users.limits) for key in config.access.keys if key.end_users is not None),
            *(("caller", key.name, key.limits) for key in config.access.keys),
            *(("group", name, group.limits) for name, group in config.access.groups.items()),
            *(("model", name, model.limits) for name, model in config.models.items()),
            *(("upstream", name, upstream.limits) for name, upstream in config.upstreams.items()),
        ]
        self._quotas: dict[Owner, UseLimits] = {(kind, name): quota for kind, name, quota in named if quota is not None}
        for row in callers_of_rows(config.access):
            if row.limits is not None:
                self._row(row, row.limits)
        self._limits: dict[Owner, tuple[Limit, ...]] = {}
        """Made when they are first used: there may be thousands of callers."""

    def __bool__(self) -> bool:
        return bool(self._quotas)

    def limits_of(self, owner: Owner, declared: UseLimits | None = None) -> tuple[Limit, ...]:
        """Return the configured limits of `owner`, or `declared` if the configuration does not name it."""
        if (found := self._limits.get(owner)) is None:
            if (quota := self._quotas.get(owner, declared)) is None:
                return ()
            counts = self._end_users if owner[0] == END_USER else self.counts
            found = self._limits[owner] = tuple(map(counts.attach, made(owner, quota)))
            for limit in found:
                self._hit(limit.subject, limit.setting, 0)
        for limit in found:
            if limit.is_calendar:
                limit.ahead_s = self._clock.wall() - self._clock.now()
        return found

    def all_limits(self, owners: Iterable[Owner] | None = None) -> Iterator[Limit]:
        """Yield each limit (of `owners`), also of callers that sent nothing yet. Of a row it is that of one caller."""
        now_s = self._clock.now()
        fullest = self._of_rows.fullest(now_s)
        for limit in chain.from_iterable(map(self.limits_of, self._quotas if owners is None else owners)):
            yield max(limit, fullest.get(limit.key, limit), key=lambda one: one.used(now_s))

    def budgets(self) -> dict[Labels, float]:
        """Return the share that is left of each daily or monthly limit in use: the MAX_NAMES lowest."""
        found, now_s = list[tuple[Labels, float]](), self._clock.now()
        for limit in self.all_limits(self._limits):
            if limit.is_calendar:
                left = max(0, limit.most - limit.all_used(now_s)) / limit.most
                found.append(((*limit.subject, limit.setting), left))
        return dict(nsmallest(MAX_NAMES, found, key=itemgetter(1)))

    async def admit(self, context: RequestContext, call: Call, route: Route, threads: BodyThreads) -> None:
        """Reserve the amounts that `call` may use, for `context`.

        Raises InvalidRequest, NotAllowed and Limited.
        """
        caller, protocol = context.caller, PROTOCOLS[call.operation.protocol]
        limits = self._of_caller(caller, route.entry)
        shared = self._of_each_user(caller)
        upstreams = {
            one.upstream: found for one in route.targets if (found := self.limits_of(("upstream", one.upstream)))
        }
        if not limits and not shared and not upstreams:
            return
        counts_tokens = any(one.counts_tokens for one in chain(limits, shared, *upstreams.values()))
        operation = call.operation.configured_as
        if counts_tokens and operation == UNSEEN and operation not in (caller.operations or ()):
            raise NotAllowed(
                "operation_not_allowed",
                f"The limits on tokens cannot count the work of {operation}. To allow it without them,"
                f" name it in `operations` of {caller.name!r} ({caller.setting}.operations).",
            )
        if not protocol.uses_tokens or call.operation.is_about_stored:  # the usage belongs to another request
            counts_tokens = False

        size = Size()
        if counts_tokens or caller.end_users is not None:
            is_small = len(call.body) <= INLINE_BYTES or operation == UNSEEN
            size = Size.of(call) if is_small else await threads.run_heavy(call.caller, partial(Size.of, call))
        counted = () if context.admitted is None else context.admitted.counted
        context.admitted = admitted = self._admitted(size, generates=protocol.generates)
        admitted.counted, admitted.counts_tokens = counted, counts_tokens
        own = self._of_end_user(context, shared, size.user) if shared else ()
        if not counts_tokens:
            kept = [tuple(one for one in ones if not one.counts_tokens) for ones in (own, limits, *upstreams.values())]
            own, limits, upstreams = kept[0], kept[1], dict(zip(upstreams, kept[2:], strict=True))
        admitted.of_upstream = upstreams
        await admitted.take(own, limits, context.state.clock.now())

    async def admit_large(self, context: RequestContext) -> None:
        """Count a request before its body is read in the thread, because that work is done for a refused request too.

        Raises Limited.
        """
        limits = tuple(limit for limit in self._of_caller(context.caller, "") if limit.unit == REQUESTS)
        if limits:
            context.admitted = admitted = self._admitted(Size(), generates=False)
            await admitted.take((), limits, context.state.clock.now())
            admitted.counted, admitted.taken = limits, []

    async def admit_message(self, context: RequestContext, units: Collection[str], *, is_readable: bool) -> None:
        """Count a message to an MCP server in `units` of its caller. Raises InvalidRequest and Limited."""
        owned = self._of_caller(context.caller, "")
        shared = self._of_end_user(context, self._of_each_user(context.caller), "")
        limits, own = ([one for one in ones if one.unit in units] for ones in (owned, shared))
        if limits or own:
            if not is_readable:
                raise InvalidRequest("A caller with limits sends one valid message at a time, and no batch.")
            context.admitted = admitted = self._admitted(Size(), generates=False)
            await admitted.take(own, limits, context.state.clock.now())

    def _admitted(self, size: Size, *, generates: bool) -> Admitted:
        output = (size.output_tokens or RESERVED_OUTPUT_TOKENS) * size.answers * generates
        tokens = size.input_tokens + output
        return Admitted(self.counts, self._end_users, self._hit, size, tokens, generates=generates)

    def _of_caller(self, caller: Caller, entry: str) -> tuple[Limit, ...]:
        """Return the limits of a request of `caller` for an entry of `models`, apart from its end user's."""
        own: Sequence[Limit] = ()
        if not caller.is_of_row:
            own = self.limits_of(("caller", caller.identity), caller.limits)
        elif caller.limits is not None:
            shared = self.limits_of(self._row(caller, caller.limits))
            own = self._of_rows.of(caller.identity, shared, self._clock.now())
        return (*own, *self.limits_of(("group", caller.group or "")), *self.limits_of(("model", entry)))

    def _row(self, caller: Caller, limits: UseLimits) -> Owner:
        """Return the owner of what callers of a row share. Rows of one name with other limits have a number."""
        owner, number = (JWT, caller.name), 2
        while (found := self._quotas.setdefault(owner, limits)) is not limits and found != limits:
            owner, number = (JWT, f"{caller.name}#{number}"), number + 1
        return owner

    def _of_each_user(self, caller: Caller) -> tuple[Limit, ...]:
        """Return the limits that each end user of `caller` has."""
        users = caller.end_users
        return () if users is None else self.limits_of((END_USER, caller.identity), users.limits)

    def _of_end_user(self, context: RequestContext, shared: Sequence[Limit], name: str) -> Sequence[Limit]:
        """Return the limits of the end user, or the ones `shared` by all further users."""
        declared = context.caller.end_users
        if declared is None or not shared:
            return shared
        if declared.header is not None:
            found = header(context.client_request.headers, declared.header.lower().encode())
            name = (found or b"").decode("latin-1")
        return self._end_users.of(name, shared, self._clock.now()) if name else shared


def made(owner: Owner, quota: UseLimits) -> Iterator[Limit]:
    for unit, amounts in ((REQUESTS, quota.requests), (TOKENS, quota.tokens)):
        for span in SPANS:
            if amounts is not None and (most := getattr(amounts, span)) is not None:
                yield Limit(owner, unit, span, most)
    if quota.max_concurrent is not None:
        yield Limit(owner, CONCURRENT, "", quota.max_concurrent)
