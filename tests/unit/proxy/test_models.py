"""The model catalog over a fake transport, and the kind of a model."""

import asyncio
import json

import pytest
from msgspec import structs
from msgspec.structs import replace

from gatepass.auth.caller import Caller
from gatepass.config.model import Config
from gatepass.normalize.profiles import PROFILES
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import RequestContext
from gatepass.proxy.models import FAILED_S, FRESH_S, MOST_KEPT, Kinds, ModelCatalog
from gatepass.types import OutboundRequest, Response
from tests.unit.clock import DrivenClock, settle
from tests.unit.proxy.test_attempt_retries import Reply

CALLER = Caller("anybody", "anybody")


class Bug(Exception):
    """An error of no known class."""


def listed(*models: str) -> Reply:
    return Reply({"data": [{"id": model} for model in models]})


class Upstream:
    """A Transport: `reply` is the reply, an error to raise, or None to wait until `free` is set."""

    def __init__(self, reply: Response | Exception | None) -> None:
        self.reply = reply
        self.requests = 0
        self.free = asyncio.Event()

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        self.requests += 1
        if self.reply is None:
            await self.free.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        assert self.reply is not None
        return self.reply

    async def aclose(self) -> None:
        pass


def over(upstream: Upstream, clock: DrivenClock) -> ModelCatalog:
    config = Config.model_validate({"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}})
    state = create_app_state(config, clock)
    chat = replace(state.upstreams["chat"], transport=upstream)  # a fake with the same methods
    return ModelCatalog(replace(state, upstreams={"chat": chat}))


def request_to(catalog: ModelCatalog) -> RequestContext:
    context = RequestContext.without_client(catalog.state, PROFILES["plain"])
    context.caller, context.protocol = CALLER, PROTOCOLS["models"]
    return context


async def ids(catalog: ModelCatalog) -> list[str]:
    listing = json.loads(await catalog.listing(request_to(catalog)))
    return [model["id"] for model in listing["data"]]


async def test_an_unexpected_fault_is_not_an_empty_list():
    clock = DrivenClock()
    upstream = Upstream(Bug("oops"))
    catalog = over(upstream, clock)
    for _ in range(3):
        with pytest.raises(Bug, match="oops"):
            await ids(catalog)
        with pytest.raises(Bug, match="oops"):
            await catalog.entry(request_to(catalog), "m")
    assert upstream.requests == 1
    await clock.advance(FAILED_S)
    upstream.reply = listed("m")
    assert await ids(catalog) == ["m"]


async def test_a_fault_of_a_refresh_is_logged_while_the_last_list_is_returned(caplog):
    clock, upstream = DrivenClock(), Upstream(listed("m"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["m"]
    await clock.advance(FRESH_S)
    upstream.reply = Bug("oops")
    assert await ids(catalog) == ["m"]
    await settle()
    assert upstream.reply.__traceback__ is None  # the error is kept, and a traceback keeps what the fetch had read
    assert await ids(catalog) == ["m"]
    (line,) = caplog.records
    assert (line.getMessage(), line.fields, line.exc_info[0]) == ("model_list_failed", {"upstream": "chat"}, Bug)
    assert upstream.requests == 2


async def test_each_key_sees_the_models_of_its_own_patterns():
    catalog = over(Upstream(listed("a-1", "b-1")), DrivenClock())
    seen = []
    for pattern in ("a*", "b-?", "a*"):
        context = request_to(catalog)
        context.caller = structs.replace(CALLER, models=[pattern])
        seen.append([entry["id"] for entry in await catalog.entries(context)])
    assert seen == [["a-1"], ["b-1"], ["a-1"]]


async def test_a_bounded_number_of_lists_is_kept():
    catalog = over(Upstream(listed("m")), DrivenClock())
    for number in range(MOST_KEPT + 3):
        context = request_to(catalog)
        context.caller = structs.replace(CALLER, models=["m", f"{number}"])
        assert len(await catalog.entries(context)) == 1
    assert len(catalog._kept) == MOST_KEPT


async def test_an_old_list_is_returned_at_once_and_the_next_request_gets_the_new_one():
    clock, upstream = DrivenClock(), Upstream(listed("old"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["old"]
    await clock.advance(FRESH_S)
    upstream.reply = None
    assert await ids(catalog) == ["old"]
    upstream.reply = listed("new")
    upstream.free.set()
    await settle()
    assert (await ids(catalog), upstream.requests) == (["new"], 2)


UPSTREAMS = {name: {"base_url": f"https://{name}.example/v1"} for name in ("chat", "embed", "rank", "ears", "voice")}


def kinds(**blocks):
    return Kinds(Config.model_validate({"upstreams": UPSTREAMS, **blocks}))


OPERATIONS = {
    "chat": {"upstream": "chat"},
    "models": {"upstream": "embed"},
    "embeddings": {"upstream": "embed"},
    "rerank": {"upstream": "rank"},
}
MODELS = {
    "own": {"upstream": "chat"},
    "seer": {"upstream": "chat", "capabilities": {"vision": True}},
    "long": {"upstream": "chat", "capabilities": {"dimensions": 3}},
}
RANKER = {"rerank": {"upstream": "chat", "model": "rr"}}
EARS = {name: {"upstream": "ears", "model": "scribe"} for name in ("transcriptions", "translations")}
SPEECH = {**EARS, "speech": {"upstream": "voice", "model": "reader"}}
MIXED = {"transcriptions": {"upstream": "ears"}, "speech": {"upstream": "ears"}}


@pytest.mark.parametrize(
    ("operations", "models", "model", "listed_by", "name"),
    [
        # declared, or the only kind of the upstream
        (OPERATIONS, MODELS, "corp", ["embed"], "corp___embedding"),
        (OPERATIONS, MODELS, "corp", ["rank"], "corp___rerank"),
        (OPERATIONS, MODELS, "bge-m3", ["embed"], "bge-m3"),
        (OPERATIONS, MODELS, "corp", ["chat"], "corp"),
        (OPERATIONS, MODELS, "corp", ["chat", "embed"], "corp"),
        (OPERATIONS, MODELS, "own", ["embed"], "own"),
        (OPERATIONS, MODELS, "seer", ["rank"], "seer___vision"),
        (OPERATIONS, MODELS, "long", [], "long___embedding"),
        ({**OPERATIONS, "speech": {"rules": {"drop": ["user"]}}}, {}, "corp", ["rank"], "corp___rerank"),
        # other models target the upstream
        (OPERATIONS, {"*": {"upstream": "embed"}}, "corp", ["embed"], "corp"),
        (RANKER, {"*": {"upstream": "chat"}}, "gpt-5", ["chat"], "gpt-5"),
        # the default model of an operation
        (RANKER, {}, "rr", ["chat", "embed"], "rr___rerank"),
        (RANKER, {"rr": {"upstream": "embed"}}, "rr", ["chat", "embed"], "rr___rerank"),
        ({**RANKER, "chat": {"upstream": "chat", "model": "rr"}}, {"*": {"upstream": "chat"}}, "rr", ["chat"], "rr"),
        # speech
        (SPEECH, {}, "corp", ["ears"], "corp___whisper"),
        (SPEECH, {}, "scribe", [], "scribe___whisper"),
        (SPEECH, {}, "reader", [], "reader___tts"),
        (MIXED, {}, "corp", ["ears"], "corp"),
    ],
)
def test_the_kind_is_declared_or_the_only_one_that_the_configuration_determines(
    operations, models, model, listed_by, name
):
    assert kinds(operations=operations, models=models).typed(model, listed_by) == name


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ({"kind": "asr"}, "m___whisper"),
        ({"kind": "vision"}, "m___vision"),
        ({"kind": "chat"}, "m"),
        ({"kind": "chat", "dimensions": 3, "vision": True}, "m"),
    ],
)
def test_the_declared_kind_has_precedence(capabilities, name):
    models = {"m": {"upstream": "embed", "capabilities": capabilities}}
    operations = {**OPERATIONS, "rerank": {"upstream": "rank", "model": "m"}}
    assert kinds(operations=operations, models=models).typed("m", ["rank"]) == name
