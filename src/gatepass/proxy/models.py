"""Serve `/v1/models`: the configured names, and the upstreams' own lists if a wildcard route opens them.

`ModelCatalog` fetches, caches and merges the lists. `Kinds` derives from the configuration what a model is used for
(chat, embedding, rerank, ...), because RAGFlow reads the type from the model's name.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from secrets import token_hex
from typing import Any

import msgspec

from gatepass.auth.caller import Caller
from gatepass.auth.model_access import may_use
from gatepass.cancel import timeout
from gatepass.config.model import Config
from gatepass.config.routes import OF_LIST, Model, ModelKind
from gatepass.dialects.hints import may_lack_model, unknown_model
from gatepass.errors import GatepassError, ModelNotFound, UpstreamErrorReply, UpstreamInvalid, UpstreamTimeout, sentence
from gatepass.json_body import has_more, json_value
from gatepass.learning.pointing import Refusal, is_named
from gatepass.learning.quotes import top_of
from gatepass.normalize.profiles import OWNER, typed, untyped
from gatepass.protocols.operations import call_of, match_operation
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import drop_tracebacks, send_own_call, send_whole
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.response import BufferedReply
from gatepass.proxy.upstream_call import NAMED_BYTES
from gatepass.types import Target, counted, span

LOG = logging.getLogger("gatepass.catalog")

FRESH_S = 60.0
"""Age after which an upstream's list is fetched again; clients get the last one meanwhile."""

FAILED_S = 3.0

FETCH_S = 4.0
"""Timeout of a fetch. LibreChat stops waiting after 5 s (packages/api/src/endpoints/models.ts) and then shows no model
at all, and RAGFlow's provider check after 10 s."""

LIST_CALL = call_of(match_operation("GET", "/models").operation)
LIST_BYTES = 4 * 1024 * 1024
LIST_VALUES = 100_000
"""Limit on the commas and opening brackets of a list, which is parsed in one piece: the worst takes 20 ms. A list of
400 models with prices and descriptions has 50,000."""
LIST_MODELS = 5_000
AT_ONCE = 100
"""Models that are matched with patterns before other requests are served: 5 ms with 30 of a key and 30 of `models`."""
MOST_KEPT = 16
"""The most lists for keys that are kept, each by its patterns. The oldest one leaves."""

Entry = dict[str, Any]


class _List(msgspec.Struct):
    """What is known of the list of one upstream."""

    models: tuple[Entry, ...] | None = None
    fetched_s: float = 0.0
    error: Exception | None = None
    failed_s: float = -math.inf
    fetch: asyncio.Task[None] | None = None


class ModelCatalog:
    """Model lists, cached per upstream. All requests share one fetch per upstream.

    The last list is returned at once while a newer one is fetched, and is kept if that fetch fails.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        self._kinds = Kinds(state.config)
        self._lists: defaultdict[str, _List] = defaultdict(_List)
        self._kept: dict[tuple[Any, ...], list[Entry]] = {}
        """What the present lists were made into: () for all models, else by the patterns of a key. Other lists begin a
        new one, so that what is made of older ones meanwhile is not kept."""

    async def listing(self, context: RequestContext) -> bytes:
        """Return the body of GET /v1/models for this caller and profile.

        Raises the upstream's error only if no model is known.
        """
        protocol = context.protocol
        return protocol.model_list(await self.entries(context) if protocol.lists_entries else ())

    async def entries(self, context: RequestContext) -> list[Entry]:
        """Return the entries of `listing`, which are shared: do not change them."""
        wanted = self._begin(context)
        await self._wait_for_fetches(name for name in wanted if self._lists[name].models is None)
        return await self._visible(wanted, context.caller, is_typed=context.profile_rules.settings.typed_ids)

    async def entry(self, context: RequestContext, model: str) -> bytes:
        """Return the body of GET /v1/models/{id}; raise ModelNotFound and the errors of `listing`."""
        name = untyped(model) if context.profile_rules.settings.typed_ids else model
        wanted = self._begin(context)
        if not any(entry["id"] == name for entry in await self._known()):
            await self._wait_for_fetches(wanted)
        for entry in await self._visible(wanted, context.caller):
            if entry["id"] == name:
                return context.protocol.model({**entry, "id": model})
        raise ModelNotFound(
            f"The model {model[:100]!r} is not listed here. GET /v1/models returns the listed models.", param="model"
        )

    async def kind_by_lists(self, model: str) -> ModelKind | None:
        """Return the kind of the upstreams whose lists name `model`, None if that is not known."""
        if not self._kinds.of_upstream:
            return None
        await self._wait_for_fetches(self.start_fetches())
        return self._kinds.of_lists(
            name for name, one in self._lists.items() if any(entry["id"] == model for entry in one.models or ())
        )

    def _begin(self, context: RequestContext) -> list[str]:
        wanted = self.start_fetches()
        context.access.upstream = ",".join(wanted) or None
        return wanted

    def start_fetches(self, failed_s: float = FAILED_S, only: str = "") -> list[str]:
        """Return the upstreams whose lists are part of the reply, and start a fetch for each list that is too old.

        A fetch that failed is not repeated within `failed_s`. `only`: of this upstream instead.
        """
        (_, opened), now = self.state.routes.listing(), self.state.clock.now()
        # Azure's deployments and RAGFlow's assistants are not listed: clients use their configured names
        upstreams = self.state.upstreams
        named = [only] if only else dict.fromkeys(upstream for upstream, _ in opened)
        wanted = [upstream for upstream in named if upstreams[upstream].dialect.lists_models]
        for upstream in wanted:
            one = self._lists[upstream]
            is_fresh = one.models is not None and now - one.fetched_s < FRESH_S
            if not (one.fetch or is_fresh or now - one.failed_s < failed_s):
                one.fetch = self.state.in_flight.tasks.spawn(self._fetch(upstream, one), f"models of {upstream}")
        return wanted

    def explain_unknown(self, attempt: Attempt, error: GatepassError) -> None:
        """Add to a refusal of a model that the upstream never accepted that its list, if it is known, lacks the name.

        A list that is unknown or older than FRESH_S is fetched for later errors.
        """
        call, target, upstream = attempt.call, attempt.target, attempt.upstream
        sent, body = target.model or call.model, (attempt.normalized or call).body
        if not isinstance(error, UpstreamErrorReply) or not may_lack_model(error, (call.model, sent)):
            return
        if sent in upstream.state.accepted:
            return
        refusal = Refusal.of(frozenset(), 400, error.error_body, b"{}")  # None for a filter's words
        members = top_of(body).values.keys() - {"model"} if len(body) <= NAMED_BYTES else set[str]()
        if refusal is None or is_named(refusal.text, members) or members & set(re.findall(r"\w+", refusal.text)):
            return
        self.start_fetches(FRESH_S, upstream.name)
        one, own = self._lists[upstream.name], sent.lower()
        names = {entry["id"].lower() for entry in one.models or ()}
        # Ollama adds a tag, Gemini a folder
        is_known = any(own in (name, name.partition(":")[0], name.rpartition("/")[2]) or "*" in name for name in names)
        if not 0 < len(names) < LIST_MODELS or is_known:
            return
        route = self.state.declared.route_setting(call.operation.configured_as, call.model)
        remedy = unknown_model(call.model, error.hop, target.model, route, call.operation.name)
        error.advice, error.case, error.setting, cause = remedy
        error.original = b""  # else the client would not read it
        # two digits at most, because RAGFlow retries an error whose text contains a number such as 429
        listed = counted(len(names), "name") if len(names) < 100 else "more than 99 names"
        age = span(min(self.state.clock.now() - one.fetched_s, 99 * 86_400))
        error.cause = f"{sentence(error.cause)} {cause} The upstream's list ({listed}, {age} old) lacks it."

    async def _known(self) -> list[Entry]:
        """The configured names, and the models of the last lists that match a wildcard route."""
        kept = self._kept
        if (found := kept.get(())) is not None:
            return found
        names, opened = self.state.routes.listing()
        defaults: Entry = {"object": "model", "created": 0, "owned_by": OWNER}
        models = {name: {"id": name, **defaults} for name in names}
        for upstream, pattern in opened:
            await asyncio.sleep(0)
            for entry in self._lists[upstream].models or ():
                if fnmatchcase(entry["id"], pattern):
                    models.setdefault(entry["id"], entry)
        kept[()] = found = [*models.values()]
        return found

    async def _visible(self, wanted: Iterable[str], caller: Caller, *, is_typed: bool = False) -> list[Entry]:
        """The models that `caller` may use. Raises the error of a failed fetch if no model is known at all."""
        failed = next((error for name in wanted if (error := self._lists[name].error) is not None), None)
        if failed is not None and not await self._known():
            raise failed.with_traceback(None)  # the kept error is raised again: its traceback would grow each time
        kept, key = self._kept, (None if caller.models is None else tuple(caller.models), is_typed)
        if (known := kept.get(key)) is not None:
            return known
        found, declared = list[Entry](), dict[str | None, Entry]()
        listed = {name: {entry["id"] for entry in one.models or ()} for name, one in self._lists.items() if is_typed}
        for number, entry in enumerate(await self._known()):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            model = entry["id"]
            if may_use(caller, model):
                of_entry = self.state.declared.entry("chat", model) or self.state.declared.entry("embeddings", model)
                if of_entry not in declared:
                    declared[of_entry] = self._declared(of_entry)
                more = declared[of_entry]
                if is_typed:
                    typed_id = self._kinds.typed(model, [name for name in listed if model in listed[name]])
                    more = {**more, "id": typed_id, "owned_by": OWNER}
                found.append({**entry, **more} if more else entry)
        kept[key] = found
        while len(kept) > MOST_KEPT:
            del kept[next(iter(kept))]
        return found

    def _declared(self, name: str | None) -> Entry:
        """The members for the declared capabilities of the entry `name`, `max_model_len` as vLLM's list has it."""
        if name is None:
            return {}
        capabilities = self.state.config.models[name].capabilities.model_dump(mode="json", exclude_none=True)
        length = capabilities.get("context_length")
        lengths = {} if length is None else {"context_length": length, "max_model_len": length}
        return {"gatepass": {"capabilities": capabilities}, **lengths} if capabilities else {}

    async def _wait_for_fetches(self, wanted: Iterable[str]) -> None:
        if begun := [fetch for name in wanted if (fetch := self._lists[name].fetch) is not None]:
            await asyncio.wait(begun)

    async def _fetch(self, upstream: str, one: _List) -> None:
        try:
            late = UpstreamTimeout(
                f"The upstream did not return its model list within {FETCH_S:g} s.", upstream=upstream, phase="total"
            )
            work = fetch_models(self.state, self.state.upstreams[upstream])
            models = await timeout(self.state.clock, FETCH_S, work, late)
            if models != one.models:
                self._kept = {}
            one.models, one.fetched_s = models, self.state.clock.now()
            self.state.metrics.models_listed(upstream, (entry["id"] for entry in models))
            one.error, one.failed_s = None, -math.inf
        except Exception as error:  # any fault: no code awaits this task; requests for the list raise the error
            one.error, one.failed_s = error, self.state.clock.now()
            if not isinstance(error, GatepassError):
                LOG.exception("model_list_failed", extra={"fields": {"upstream": upstream}})
            drop_tracebacks(error)  # it stays here until the next fetch
        finally:
            one.fetch = None


async def fetch_models(state: AppState, upstream: Upstream) -> tuple[Entry, ...]:
    """Fetch the upstream's own list, completed by `_completed`; raise TokenUnavailable or UpstreamError."""
    body = (await request_list(state, upstream)).body
    if has_more(body, b",{[", LIST_VALUES):
        reason = f"The upstream's list of models has more than {LIST_VALUES} values."
        raise UpstreamInvalid(reason, upstream=upstream.name)
    return parse_list(upstream, body)


async def request_list(state: AppState, upstream: Upstream, caller: str = LIST_CALL.caller) -> BufferedReply:
    """Return the upstream's reply to a request for its model list; raise TokenUnavailable or UpstreamError."""
    call = msgspec.structs.replace(LIST_CALL, id=f"models-{token_hex(8)}", caller=caller)
    attempt = Attempt.begin(state, Target(upstream.name), call)
    attempt.upstream, attempt.limit_bytes = upstream, LIST_BYTES
    reply = await send_own_call(attempt, send_whole, call)
    if not isinstance(reply, BufferedReply):
        raise TypeError("a list of models is not streamed")
    return reply


def parse_list(upstream: Upstream, body: bytes) -> tuple[Entry, ...]:
    """Parse `{"data":[{"id"…}]}`, or the bare list that some servers send."""
    try:
        document = json_value(body)
    except (msgspec.DecodeError, RecursionError):
        document = None
    listed = document.get("data") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise UpstreamInvalid("The upstream's reply is not a list of models.", upstream=upstream.name)
    named = (entry for entry in listed[:LIST_MODELS] if isinstance(entry, dict) and isinstance(entry.get("id"), str))
    return tuple(_completed(entry) for entry in named if entry["id"])


def _completed(entry: Entry) -> Entry:
    """Return `entry` with defaults for missing and invalid members that clients of OpenAI's list require."""
    kind, created, owner = entry.get("object"), entry.get("created", 0), entry.get("owned_by")
    return {
        **entry,
        "object": kind if isinstance(kind, str) else "model",
        "created": int(created) if type(created) in (int, float) else 0,  # `isinstance` would accept a bool
        "owned_by": owner if isinstance(owner, str) else "upstream",
    }


_KIND_OF_OPERATION: Mapping[str, ModelKind] = {
    "embeddings": "embedding",
    "rerank": "rerank",
    "transcriptions": "asr",
    "translations": "asr",
    "speech": "tts",
}


class Kinds:
    """The kind of a model, if the configuration determines it.

    The first of these decides: the model's `capabilities`, the operation whose default model it is, its upstream. An
    upstream has a kind if all operations routed there are of that kind and no entry of `models` targets it.
    """

    def __init__(self, config: Config) -> None:
        self._models = config.models
        operations: dict[str, set[str]] = {}
        for operation, route in config.operations.items():
            if route.model is not None:
                operations.setdefault(route.model, set()).add(operation)
        self._of_default_model = _unambiguous(operations)
        self.of_upstream = _of_upstream(config)

    def typed(self, model: str, listed_by: Iterable[str] = ()) -> str:
        """Return the name to list `model` under; `listed_by` are the upstreams whose own lists contain it."""
        kind = self.of(model) or (None if model in self._models else self.of_lists(listed_by))
        return model if kind is None else typed(model, kind)

    def of_lists(self, listed_by: Iterable[str]) -> ModelKind | None:
        """Return the kind of the upstreams `listed_by`. None if they differ, or if one has none."""
        kinds = {self.of_upstream.get(upstream) for upstream in listed_by}
        return kinds.pop() if len(kinds) == 1 else None

    def of(self, model: str) -> ModelKind | None:
        """The kind by the model's `capabilities` or by `operations`, else None."""
        entry = self._models.get(model)
        return (None if entry is None else declared_kind(entry)) or self._of_default_model.get(model)


def declared_kind(entry: Model) -> ModelKind | None:
    if entry.capabilities.kind is not None:
        return entry.capabilities.kind
    if entry.capabilities.dimensions is not None:
        return "embedding"
    return "vision" if entry.capabilities.vision else None


def _of_upstream(config: Config) -> Mapping[str, ModelKind]:
    routed = {target.upstream for entry in config.models.values() for target in entry.ordered_targets()}
    if not config.models and len(config.upstreams) == 1:
        return {}  # all operations are routed to the only upstream, so its kind is not known
    operations: dict[str, set[str]] = {}
    for operation, route in config.operations.items():
        if operation not in OF_LIST and route.upstream is not None and route.upstream not in routed:
            operations.setdefault(route.upstream, set()).add(operation)
    return _unambiguous(operations)


def _unambiguous(operations: Mapping[str, set[str]]) -> dict[str, ModelKind]:
    """The names whose operations are all of one kind, with that kind."""
    kinds = {name: {_KIND_OF_OPERATION.get(operation) for operation in names} for name, names in operations.items()}
    return {name: kind for name, found in kinds.items() if len(found) == 1 and (kind := next(iter(found))) is not None}
