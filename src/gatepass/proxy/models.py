"""`/v1/models`: the configured names, and the upstreams' own lists where a wildcard opens them.

What each model is for, as far as the configuration tells: for the names that RAGFlow reads types off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import msgspec

from gatepass.auth.model_access import may_use
from gatepass.cancel import timeout
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.config.routes import Model, ModelKind
from gatepass.errors import GatepassError, ModelNotFound, UpstreamAuth, UpstreamInvalid, UpstreamTimeout
from gatepass.json_scan import json_value
from gatepass.learning.export import marks
from gatepass.learning.learned_rule import LearnedRuleRecord
from gatepass.normalize.profiles import typed, untyped
from gatepass.operations.table import OPERATIONS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.upstream_call import explain_rejection, read_body, read_error, received_reply, send
from gatepass.types import Call, ClientProtocol, OutboundRequest, Target

LOG = logging.getLogger("gatepass.catalog")

FRESH_S = 60.0
"""An upstream's list is asked for again after this; the last one is shown meanwhile."""

FAILED_S = 3.0
"""A list that could not be had is asked for again after this."""

FETCH_S = 8.0
"""The bound of asking: clients verify a provider by this call within 10 s (RAGFlow's provider check)."""

PATIENCE_S = 4.0
"""Where there is something to show, this is how long a first list is waited for: LibreChat gives up on it after 5 s
(packages/api/src/endpoints/models.ts), and then knows no model at all."""

LIST_BYTES = 4 * 1024 * 1024
LIST_MODELS = 5_000

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Known:
    """The last good list of one upstream."""

    models: tuple[Entry, ...]
    fetched_s: float


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why there is no newer list of one upstream."""

    error: Exception
    failed_s: float


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A list under way."""

    task: asyncio.Task[None]
    began_s: float


class _Late(Exception):
    """A list did not come in time."""


class Catalog:
    """Lists models. One fetch per upstream however many ask. The last good list outlives a failing upstream, and is
    shown at once while a newer one is fetched."""

    def __init__(self, state: AppState) -> None:
        self._gate = state
        self._kinds = Kinds(state.config)
        self._known: dict[str, _Known] = {}
        self._flights: dict[str, _Fetch] = {}
        self._failed: dict[str, _Failed] = {}

    async def listing(self, context: RequestContext) -> bytes:
        """The body of GET /v1/models, as the caller and its profile may see it.

        Raises the upstream's error only where there is nothing at all to show.
        """
        wanted = self._asked(context)
        await self._landed([name for name in wanted if name not in self._known], PATIENCE_S)
        if not self._shown():
            await self._landed(wanted)
        entries = self._visible(wanted, context.caller)
        if context.profile.settings.typed_ids:
            listed = {name: {entry["id"] for entry in known.models} for name, known in self._known.items()}
            for entry in entries:
                listed_by = [name for name, models in listed.items() if entry["id"] in models]
                entry["id"] = self._kinds.typed(entry["id"], listed_by)
        return msgspec.json.encode({"object": "list", "data": entries})

    async def entry(self, context: RequestContext, model: str) -> bytes:
        """The body of GET /v1/models/{id}, which is looked for in new lists where the last ones do not have it.

        Raises ModelNotFound, and as `listing` does.
        """
        name = untyped(model) if context.profile.settings.typed_ids else model
        wanted = self._asked(context)
        if not any(entry["id"] == name for entry in self._shown()):
            await self._landed(wanted)
        for known in self._visible(wanted, context.caller):
            if known["id"] == name:
                return msgspec.json.encode({**known, "id": model})
        raise ModelNotFound(
            f"The model {model[:100]!r} is not listed here. GET /v1/models shows what is.", param="model"
        )

    def _asked(self, context: RequestContext) -> list[str]:
        """The upstreams whose own lists are shown; those whose list is old are asked, once for all who want it."""
        opened, now = self._gate.routes.listing().open_upstreams, self._gate.clock.now()
        # of Azure's deployments and RAGFlow's assistants there is no list: those are asked by their configured names
        hops = self._gate.upstreams
        wanted = list(dict.fromkeys(upstream for upstream, _ in opened if hops[upstream].dialect.lists_models))
        for upstream in wanted:
            if upstream not in self._flights and self._is_old(upstream, now):
                task = self._gate.in_flight.tasks.spawn(self._fetch(upstream), f"models of {upstream}")
                self._flights[upstream] = _Fetch(task, now)
        context.upstream_name = ",".join(wanted) or None
        return wanted

    def _shown(self) -> Collection[Entry]:
        """All that is known now: the configured names, and what the last lists have of the others."""
        listing = self._gate.routes.listing()
        own: Entry = {"object": "model", "created": 0, "owned_by": "gatepass"}
        models = {name: {"id": name, **own} for name in listing.names}
        for upstream, pattern in listing.open_upstreams:
            known = self._known.get(upstream)
            for entry in known.models if known is not None else ():
                if fnmatchcase(entry["id"], pattern):
                    models.setdefault(entry["id"], entry)
        return models.values()

    def _visible(self, wanted: Iterable[str], caller: AccessKey) -> list[Entry]:
        """What `caller` may see; where there is nothing at all, raises why a list of `wanted` could not be had."""
        models = self._shown()
        failed = [self._failed[name].error for name in wanted if name in self._failed]
        if failed and not models:
            raise failed[0].with_traceback(None)
        return self._marked(entry for entry in models if may_use(caller, entry["id"]))

    def _marked(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries with what is declared and learned of each model."""
        wall_s = self._gate.clock.wall()
        known: dict[tuple[str, str, str], list[LearnedRuleRecord]] = {}
        for one in self._gate.learner.memory.learned(self._gate.clock.now(), wall_s):
            if one.state == "learned":
                known.setdefault((one.scope.operation, one.scope.upstream, one.scope.model), []).append(one)
        return [{**entry, **self._marks(entry["id"], known, wall_s)} for entry in entries]

    def _marks(self, model: str, known: Mapping[tuple[str, str, str], list[LearnedRuleRecord]], wall_s: float) -> Entry:
        declared, models = self._gate.declared, self._gate.config.models
        name = declared.entry("chat", model) or declared.entry("embeddings", model)
        learned = [
            one
            for operation in dict.fromkeys(operation for operation, _, _ in known)
            for target in self._targets(operation, model)
            for one in known.get((operation, target.upstream, target.model or model), ())
        ]
        return marks(None if name is None else models[name], learned, wall_s)

    def _targets(self, operation: str, model: str) -> tuple[Target, ...]:
        try:
            return self._gate.routes.resolve(operation, model)
        except ModelNotFound:
            return ()

    def _is_old(self, upstream: str, now: float) -> bool:
        known, failed = self._known.get(upstream), self._failed.get(upstream)
        if failed is not None and now - failed.failed_s < FAILED_S:
            return False
        return known is None or now - known.fetched_s >= FRESH_S

    async def _landed(self, wanted: Iterable[str], patience_s: float | None = None) -> None:
        """Returns when the lists under way, or the failures to get them, have come, or are `patience_s` under way.

        Leaving early stops nobody's fetch.
        """
        flights = [self._flights[name] for name in wanted if name in self._flights]
        if not flights:
            return
        landed = asyncio.wait([flight.task for flight in flights])
        if patience_s is None:
            await landed
            return
        left_s = max(flight.began_s for flight in flights) + patience_s - self._gate.clock.now()
        with suppress(_Late):
            await timeout(self._gate.clock, max(0.0, left_s), landed, _Late())

    async def _fetch(self, upstream: str) -> None:
        hop = self._gate.upstreams[upstream]
        try:
            late = UpstreamTimeout(
                f"The model list did not come within {FETCH_S:g} s.", upstream=upstream, phase="total"
            )
            models = await timeout(self._gate.clock, FETCH_S, fetch_models(self._gate, hop), late)
            self._known[upstream] = _Known(models, self._gate.clock.now())
            self._failed.pop(upstream, None)
        except GatepassError as error:
            self._failed[upstream] = _Failed(error, self._gate.clock.now())
        except Exception as error:  # any fault: nobody awaits this flight, and who asks for the list is told of it
            self._failed[upstream] = _Failed(error, self._gate.clock.now())
            LOG.exception("model_list_failed", extra={"fields": {"upstream": upstream}})
        finally:
            del self._flights[upstream]


async def fetch_models(state: AppState, hop: Upstream) -> tuple[Entry, ...]:
    """The upstream's own list, entries as `_as_model` leaves them; raises TokenUnavailable and UpstreamError."""
    attempt = Attempt(state, hop, Target(hop.name), _model_list_call())
    try:
        return await _listed(attempt)
    except UpstreamAuth as refusal:
        raise explain_rejection(attempt, refusal) from refusal.__cause__


async def _listed(attempt: Attempt) -> tuple[Entry, ...]:
    hop = attempt.upstream
    response = await send(attempt, model_list_request(hop))
    try:
        if response.status != 200:
            mask = attempt.state.redactor.mask
            error = hop.dialect.classify_head(hop.name, response.status, response.headers, mask=mask)
            raise error or await read_error(attempt, response)
    finally:
        if response.status != 200:
            await response.aclose()
    body = await read_body(attempt, response, LIST_BYTES)
    judged = hop.dialect.classify_document(received_reply(attempt, response, body), ClientProtocol.MODELS)
    if isinstance(judged, GatepassError):
        raise judged
    return _entries(hop, judged)


def model_list_request(hop: Upstream) -> OutboundRequest:
    """What lists the upstream's models, or RAGFlow's assistants; it bills nothing, so it also serves to try a hop."""
    return hop.dialect.encode(_model_list_call(), Target(hop.name), hop.settings.base_url, hop.timeouts)


def _model_list_call() -> Call:
    models = next(operation for operation in OPERATIONS if operation.name == "models")
    return Call(id="gatepass", operation=models, caller="gatepass", model="", body=b"", headers=())


def _entries(hop: Upstream, body: bytes) -> tuple[Entry, ...]:
    """`{"data":[{"id"…}]}`, or the bare list that some servers send."""
    try:
        document = json_value(body)
    except (msgspec.DecodeError, RecursionError):
        document = None
    listed = document.get("data") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise UpstreamInvalid("The upstream's model list is no list of models.", upstream=hop.name)
    named = (entry for entry in listed[:LIST_MODELS] if isinstance(entry, dict) and isinstance(entry.get("id"), str))
    return tuple(_as_model(entry) for entry in named if entry["id"])


def _as_model(entry: Entry) -> Entry:
    """`entry` with what every client of OpenAI's list finds there: what is missing or of another type is filled in, and
    `created` is in whole seconds. All else is as the upstream wrote it."""
    kind, created, owner = entry.get("object"), entry.get("created", 0), entry.get("owned_by")
    return {
        **entry,
        "object": kind if isinstance(kind, str) else "model",
        "created": int(created) if type(created) in (int, float) else 0,
        "owned_by": owner if isinstance(owner, str) else "upstream",
    }


_OF_OPERATION: Mapping[str, ModelKind] = MappingProxyType(
    {"embeddings": "embedding", "rerank": "rerank", "transcriptions": "asr", "translations": "asr", "speech": "tts"}
)


class Kinds:
    """A model's kind, where that is certain: it is declared by its `capabilities`, the model is one that requests of
    such an operation take where they name none, or its upstream serves operations of that kind alone and nothing under
    `models` leads there.
    """

    def __init__(self, config: Config) -> None:
        self._models = config.models
        self._of_model = _of_model(config)
        self._of_upstream = _of_upstream(config)

    def typed(self, model: str, listed_by: Iterable[str] = ()) -> str:
        """The name by which `model` is to be listed; `listed_by` are the upstreams whose own lists have it."""
        kind = self.of(model)
        if kind is None and model not in self._models:
            kinds = {self._of_upstream.get(upstream) for upstream in listed_by}
            kind = kinds.pop() if len(kinds) == 1 else None
        return model if kind is None else typed(model, kind)

    def of(self, model: str) -> ModelKind | None:
        """What `model` is declared for, or named for under `operations`; None where neither tells."""
        entry = self._models.get(model)
        return (None if entry is None else declared(entry)) or self._of_model.get(model)


def declared(entry: Model) -> ModelKind | None:
    """What the models of one entry are for, by its `capabilities`."""
    if entry.capabilities.kind is not None:
        return entry.capabilities.kind
    if entry.capabilities.dimensions is not None:
        return "embedding"
    return "vision" if entry.capabilities.vision else None


def _of_model(config: Config) -> Mapping[str, ModelKind]:
    """By public name; one that operations of several kinds name has none by that."""
    named: dict[str, set[str]] = {}
    for operation, route in config.operations.items():
        if route.model is not None:
            named.setdefault(route.model, set()).add(operation)
    return _of_one(named)


def _of_upstream(config: Config) -> Mapping[str, ModelKind]:
    led = {target.upstream for entry in config.models.values() for target in entry.all_targets()}
    if not config.models and len(config.upstreams) == 1:
        return {}  # everything goes there
    served: dict[str, set[str]] = {}
    for operation, route in config.operations.items():
        if operation != "models" and route.upstream is not None and route.upstream not in led:
            served.setdefault(route.upstream, set()).add(operation)
    return _of_one(served)


def _of_one(operations: Mapping[str, set[str]]) -> dict[str, ModelKind]:
    """The kind of what operations of one kind alone have to do with."""
    kinds = {name: {_OF_OPERATION.get(operation) for operation in names} for name, names in operations.items()}
    return {name: kind for name, found in kinds.items() if len(found) == 1 and (kind := next(iter(found))) is not None}
