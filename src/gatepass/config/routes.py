"""`rules` and `capabilities` of a model: what is changed on the way to it, and what it can do.

`operations.NAME` and `models.NAME`: where requests go, and what is changed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from gatepass.config.block import Block, Name
from gatepass.config.network import TimeoutSettings
from gatepass.config.references import Reference

MEMBER_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_-]{0,63}(\[\])?\.){0,8}[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
NOT_A_MEMBER_PATH = "expects the name of a member, such as temperature, metadata.user or messages[].name"
NO_MEMBER = "expects the new name alone, in the same object: letters, digits and underscores"
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")

ELSEWHERE = {
    "model": "the model's name is `name` of its entry",
    "stream": "whether the upstream streams is `stream` of the model's entry",
    "messages": "gatepass takes no conversation away",
    "input": "gatepass takes no input away",
    "messages[].role": "a role is changed by `roles`",
    "messages[].content": "content is changed by `text_content` and `empty_content`",
}
"""Places that no rule names, and what to do instead."""


def _named(text: str, form: re.Pattern[str], otherwise: str) -> str:
    if form.match(text) is None:
        raise ValueError(otherwise)
    if text in ELSEWHERE:
        raise ValueError(f"is not for a rule: {ELSEWHERE[text]}")
    return text


def _shown(value: Any) -> Any:
    """What `gatepass check` prints: of a reference only that it is one."""
    if isinstance(value, dict):
        return {name: _shown(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return "(hidden)" if isinstance(value, Reference) else value


MemberPath = Annotated[str, AfterValidator(partial(_named, form=MEMBER_PATH, otherwise=NOT_A_MEMBER_PATH))]
MemberName = Annotated[str, AfterValidator(partial(_named, form=_MEMBER, otherwise=NO_MEMBER))]
Value = Annotated[Any, PlainSerializer(_shown)]

NOT_LEARNED = frozenset(("model", "messages", "input", "stream", "role", "content"))
LEARN_ALSO = frozenset(
    (
        *("n", "stop", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "functions", "function_call", "dimensions", "web_search_options"),
        *("system_into_user", "merge_roles"),
    )
)
"""What `learn_also` is for, beside members that gatepass does not know."""
_ALONE = "gatepass learns it without being told, or by the `stream` of the model's entry"
NO_MEMBERS = {
    **dict.fromkeys(("aggregate", "synth", "emulate", "native", "auto", "streaming"), _ALONE),
    **dict.fromkeys(("drop", "rename", "set", "default", "clamp", "split", "roles", "tool_ids"), "it is no member"),
    **dict.fromkeys(("text_content", "empty_content", "short_tool_ids"), "gatepass learns it without being told"),
    "schema_in_words": "name response_format",
}
"""Words of gatepass's own that would do nothing in `learn_also`."""
_ALIKE = 0.9


def _learnable(text: str) -> str:
    if MEMBER_PATH.match(text) is None or text.rpartition(".")[2] in NOT_LEARNED:
        raise ValueError("is not to be learned: name a member that may go, or system_into_user, merge_roles")
    if text in NO_MEMBERS:
        raise ValueError(f"is not to be learned: {NO_MEMBERS[text]}")
    meant = get_close_matches(text.lower(), LEARN_ALSO, 1, _ALIKE)
    if meant and text not in LEARN_ALSO:
        raise ValueError(f"is not known: is {meant[0]} meant?")
    return text


Learnable = Annotated[str, AfterValidator(_learnable)]
"""A name for `upstreams.NAME.learn_also`."""


def _stream(value: Any) -> Any:
    """`true` and `false` as people write them."""
    return ("native" if value else "emulate") if isinstance(value, bool) else value


Stream = Annotated[
    Literal["auto", "native", "emulate", "aggregate"],
    BeforeValidator(_stream),
    WithJsonSchema({"enum": ["auto", "native", "emulate", "aggregate", True, False], "default": "auto"}),
]


class Bounds(Block):
    min: float | None = None
    """The least value; None is no bound."""
    max: float | None = None
    """The largest value; None is no bound."""

    @model_validator(mode="after")
    def _some_bound(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("expects min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("expects a min that is not above max")
        return self


OF_PLACES = ("rename", "drop", "default", "set")
"""Rules that name places, each a map by place or a list of places; limits (`clamp`) stand apart."""
OVER_RENAMED = ("drop", "set")
"""Those that run after `rename` and take away what it has moved; a `default` leaves it."""


def _lies_in(path: str, whole: str) -> bool:
    """Whether `path` is in the object, or in the objects of the list, at `whole`."""
    return path.startswith((f"{whole}.", f"{whole}[]."))


def _followed(limits: dict[str, Bounds], renames: dict[str, str]) -> dict[str, Bounds]:
    """Limits of places where these are after `renames`; of two that meet there that of the new name counts."""
    moved = {path: _renamed(path, renames) for path in limits}
    stay = {path: bounds for path, bounds in limits.items() if moved[path] == path}
    return {**{moved[path]: bounds for path, bounds in limits.items()}, **stay}


def _renamed(path: str, renames: dict[str, str]) -> str:
    for old, name in renames.items():
        if path == old or _lies_in(path, old):
            owner, dot, _ = old.rpartition(".")
            path = f"{owner}{dot}{name}{path[len(old) :]}"
    return path


def _joined(below: Any, above: Any) -> Any:
    """Maps and lists together; of anything else what is `above`."""
    if isinstance(above, dict):
        return {**below, **above}
    return [*below, *above] if isinstance(above, list) else above


class Rules(Block):
    """Changes on the way to a model, in this order. Places are dotted names: `messages[].name`."""

    rename: dict[MemberPath, MemberName] = {}
    """Members to send under another name; where the other is there too, that one counts."""
    drop: list[MemberPath] = []
    """Members to leave out."""
    default: dict[MemberPath, Value] = {}
    """Members to add where the client sends none, with their values."""
    set: dict[MemberPath, Value] = {}
    """Members to send with these values, whatever the client sends."""
    clamp: dict[MemberPath, Bounds] = {}
    """Numbers to keep within bounds."""
    schema_in_words: bool = False
    """Put the schema of `response_format` into the system message and ask for some JSON."""
    split: Annotated[int, Field(gt=0)] | None = None
    """The most inputs of one embeddings request; None: as many as the client sends."""
    roles: dict[Literal["system", "developer"], Literal["system", "developer", "user"]] = {}
    """Roles to replace; `user` puts the text before the first user message's."""
    replayed: Literal["keep", "drop", "drop_but_reasoning"] = "keep"
    """What is to become of members of an answer that clients send back with the conversation."""
    text_content: bool = False
    """Send a list of text parts as one string."""
    empty_content: bool = False
    """Send `""` for `content: null`."""
    merge_roles: bool = False
    """Join neighbouring messages of one role, and system messages at the front."""
    short_tool_ids: bool = False
    """Send tool call ids as Mistral wants them: nine letters and digits."""

    def over(self, base: Rules | None) -> Rules:
        """These, and of `base` what these leave open: its rules for places that these name nowhere, move nothing to and
        drop nothing around, its roles, and the settings that these do not set. A limit goes only where these limit the
        same place, and follows the renames of the other side: nobody loses one by a setting that does not speak of
        limits."""
        if base is None:
            return self
        left = base.model_copy(update={name: self._but_own(name, base) for name in OF_PLACES})
        joined = {name: _joined(getattr(left, name), getattr(self, name)) for name in self.model_fields_set}
        lost = {old: name for old, name in base.rename.items() if old not in left.rename}
        # of an old name that no longer counts, too: what it limited keeps that name
        limits = {old: base.clamp[to] for old in lost if (to := _renamed(old, lost)) in base.clamp}
        below = _followed({**limits, **base.clamp}, self.rename)
        return left.model_copy(update={**joined, "clamp": {**below, **_followed(self.clamp, left.rename)}})

    def _but_own(self, rule: str, base: Rules) -> Any:
        """Of the map or list that `rule` is in `base`, the places that are not these rules' own: that they name
        nowhere, nor drop what they lie in, nor, where it would be lost there, rename anything to."""
        named: Any = getattr(base, rule)
        own = {path for name in OF_PLACES for path in getattr(self, name)}
        if rule in OVER_RENAMED:
            own.update(_renamed(old, self.rename) for old in self.rename)
        left = [path for path in named if path not in own and not any(_lies_in(path, one) for one in self.drop)]
        return {path: named[path] for path in left} if isinstance(named, dict) else left


ModelKind = Literal["chat", "vision", "embedding", "rerank", "asr", "tts"]


class Capabilities(Block):
    """What the model can do, for the model list; None says nothing."""

    kind: ModelKind | None = None
    """What it is for; vision is a chat model that also sees, asr writes down speech, tts speaks."""
    vision: bool | None = None
    """Reads images."""
    audio: bool | None = None
    """Hears audio."""
    tools: bool | None = None
    """Calls tools."""
    reasoning: bool | None = None
    """Thinks before it answers."""
    json_schema: bool | None = None
    """Keeps to a schema in `response_format`."""
    context_length: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of question and answer together."""
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of an answer."""
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """The length of an embedding."""
    token_ids: bool | None = None
    """Takes token ids instead of texts for embeddings, made with its own tokenizer; False refuses them."""


OfModel = Literal[
    "chat",
    "completions",
    "embeddings",
    "rerank",
    "responses",
    "transcriptions",
    "translations",
    "speech",
    "images",
    "moderations",
]
"""Operations whose requests are about a model."""
OperationName = Literal[OfModel, "files", "batches", "models"]

T = TypeVar("T")
Layer = TypeVar("Layer", TimeoutSettings, Rules)


def block_of_operation(blocks: Mapping[Any, T], operation: str) -> T | None:
    """The block of `operation`, where there is one."""
    return blocks.get(operation)


class OperationRoute(Block):
    upstream: Name | None = None
    """A name under `upstreams`; None: where they go without this block."""
    model: str | None = None
    """The model of requests that name none, as Text Embeddings Inference's clients do: they are routed by it, and those
    about a model go up with it. None: 400 for what is nothing without a model, and others go without."""
    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this operation."""
    rules: Rules | None = None
    """What is changed in its requests."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expects an upstream, or what else is different here: model, timeouts, rules")
        return self


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`."""
    name: str | None = None
    """The model's name there; None sends the client's."""


class TargetList(Block):
    """One upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`."""
    name: str | None = None
    """The model's name there; None sends the client's."""
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.upstream is not None and self.targets is not None:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and self.name is not None:
            raise ValueError("name belongs into each of the targets")
        return self

    @property
    def leads(self) -> bool:
        """Whether it says where to go, and not only by which name."""
        return self.upstream is not None or self.targets is not None

    def ordered_targets(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [] if self.upstream is None else [ModelTarget(upstream=self.upstream, name=self.name)]


class ModelOperation(TargetList):
    """What is different for one operation of a model."""

    timeouts: TimeoutSettings | None = None
    """Replaces the model's for this operation."""
    stream: Stream | None = None
    """Whether the upstream streams it; None: as the model says."""
    rules: Rules | None = None
    """What is changed in its requests, before what the model says."""


class Model(TargetList):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this model."""
    stream: Stream = "auto"
    """Whether the upstream streams: `auto` finds out, `native` (true) if asked, `emulate` (false) never, `aggregate`
    always."""
    suggest: str | None = None
    """The public name of a model to point at where this one cannot do what was asked for."""
    rules: Rules | None = None
    """What is changed on the way to it."""
    capabilities: Capabilities = Capabilities()
    """What it can do."""
    operations: dict[OfModel, ModelOperation] = {}
    """What is different for one operation, its upstream for instance."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if not self.leads:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and any(own.name is not None and not own.leads for own in self.operations.values()):
            raise ValueError("name of an operation wants its upstream or targets beside it, for the model has targets")
        return self

    def for_operation(self, operation: str, route: OperationRoute | None = None) -> Model:
        """This entry as it counts for `operation`: what it says of that operation comes first, then what it says of
        all, and then what `route`, the operation's own block, says of all models; of timeouts and rules one by one."""
        own = block_of_operation(self.operations, operation)
        if own is None and route is None:
            return self
        own, route = own or _NOTHING_OWN, route or _NO_ROUTE
        target_list = own if own.leads else self
        counts = {
            "upstream": target_list.upstream,
            "name": own.name or target_list.name,
            "targets": target_list.targets,
            "timeouts": _stacked(own.timeouts, self.timeouts, route.timeouts),
            "stream": own.stream or self.stream,
            "rules": _stacked(own.rules, self.rules, route.rules),
        }
        return self.model_copy(update=counts)

    def all_targets(self) -> list[ModelTarget]:
        """The targets of all operations."""
        return [target for target_list in (self, *self.operations.values()) for target in target_list.ordered_targets()]


_NOTHING_OWN, _NO_ROUTE = ModelOperation(), OperationRoute.model_construct()


def _stacked(*layers: Layer | None) -> Layer | None:
    """One out of all that are there, the first on top."""
    found: Layer | None = None
    for layer in reversed(layers):
        found = found if layer is None else layer.over(found)
    return found
