"""`models.NAME` and `operations.NAME`: targets, rules, timeouts and capabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from gatepass.config.block import Block, Name
from gatepass.config.document import with_leaves
from gatepass.config.network import TimeoutSettings
from gatepass.config.references import Reference

MEMBER_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_-]{0,63}(\[\])?\.){0,8}[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
NOT_A_MEMBER_PATH = "expects the name of a member, such as temperature, metadata.user or messages[].name"
NOT_A_MEMBER_NAME = "expects the new name alone, in the same object: letters, digits and underscores"
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")

PROTECTED_PATHS = {
    "model": "set `name` in the model's entry",
    "stream": "set `stream` in the model's entry",
    "messages": "gatepass never removes the conversation",
    "input": "gatepass never removes the input",
    "messages[].role": "use `roles`",
    "messages[].content": "use `text_content` or `empty_content`",
}
"""Member paths that a rule must not name, each with what to do instead."""


def _checked_member(text: str, form: re.Pattern[str], error: str) -> str:
    if form.match(text) is None:
        raise ValueError(error)
    if text in PROTECTED_PATHS:
        raise ValueError(f"cannot be changed by a rule: {PROTECTED_PATHS[text]}")
    return text


MemberPath = Annotated[str, AfterValidator(partial(_checked_member, form=MEMBER_PATH, error=NOT_A_MEMBER_PATH))]
MemberName = Annotated[str, AfterValidator(partial(_checked_member, form=_MEMBER, error=NOT_A_MEMBER_NAME))]
Value = Annotated[
    Any, PlainSerializer(partial(with_leaves, convert=lambda leaf: "(hidden)" if isinstance(leaf, Reference) else leaf))
]
"""A JSON value. `gatepass check` shows it with each reference hidden."""

ANY = "*"
"""The entry of `models` for all models that no other entry names."""


def is_glob(name: str) -> bool:
    """Whether the name of an entry of `models` is a pattern."""
    return any(char in name for char in "*?[")


def ordered_globs(names: Iterable[str]) -> list[str]:
    """Return the patterns among `names`, except ANY, in the order in which they are tried: the longest first."""
    # by name too, so that the order in the file does not decide between patterns of one length
    return sorted((name for name in names if is_glob(name) and name != ANY), key=lambda name: (-len(name), name))


# a request without these has lost its meaning
NOT_LEARNED = frozenset(("model", "messages", "input", "stream", "role", "content"))
LEARN_ALSO = frozenset(
    (
        *("n", "stop", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "functions", "function_call", "dimensions", "web_search_options"),
        *("system_into_user", "merge_roles"),
    )
)
"""Names that `learn_also` accepts in addition to members that gatepass does not know."""
_LEARNED_ANYWAY = "gatepass learns it without this setting"
_STREAM_MODE = f"{_LEARNED_ANYWAY}, or takes it from `stream` of the model's entry"
USELESS_IN_LEARN_ALSO = {
    **dict.fromkeys(("aggregate", "synth", "emulate", "native", "auto", "streaming"), _STREAM_MODE),
    **dict.fromkeys(
        ("drop", "rename", "set", "default", "clamp", "split", "roles", "tool_ids"), "it is not a member of a request"
    ),
    **dict.fromkeys(("text_content", "empty_content", "short_tool_ids"), _LEARNED_ANYWAY),
    "schema_in_words": "name response_format",
}
"""Terms of gatepass that would have no effect in `learn_also`, each with the reason."""
_TYPO_RATIO = 0.9  # difflib's default of 0.6 takes correct names of vendor parameters for typing errors


def _learnable(text: str) -> str:
    if MEMBER_PATH.match(text) is None or text.rpartition(".")[2] in NOT_LEARNED:
        raise ValueError("cannot be learned: name a member that gatepass may drop, or system_into_user, merge_roles")
    if text in USELESS_IN_LEARN_ALSO:
        raise ValueError(f"cannot be learned: {USELESS_IN_LEARN_ALSO[text]}")
    near = get_close_matches(text.lower(), LEARN_ALSO, 1, _TYPO_RATIO)
    if near and text not in LEARN_ALSO:
        raise ValueError(f"is not known; did you mean {near[0]}?")
    return text


Learnable = Annotated[str, AfterValidator(_learnable)]
"""One entry of `upstreams.NAME.learn_also`."""

Stream = Annotated[
    Literal["auto", "native", "emulate", "aggregate"],
    # people write true and false
    BeforeValidator(lambda value: ("native" if value else "emulate") if isinstance(value, bool) else value),
    WithJsonSchema({"enum": ["auto", "native", "emulate", "aggregate", True, False], "default": "auto"}),
]


class Bounds(Block):
    min: float | None = None
    """The least value; None means no lower bound.

    Unit: the unit of the member

    Example: 1
    """
    max: float | None = None
    """The largest value; None means no upper bound.

    Unit: the unit of the member

    Example: 4096
    """

    @model_validator(mode="after")
    def _some_bound(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("expects min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("expects a min that is not above max")
        return self


class Rules(Block):
    """Changes of a request before it is sent to a model, in this order. They are set for a model, for an operation of
    a model, or for all requests of an operation.

    A member path is a dotted name, with `[]` for each object of a list: `temperature`,
    `stream_options.include_usage`, `messages[].name`. Members that no rule names keep their bytes. Rules cannot
    change `model`, `stream`, `messages`, `input` and the role and content of messages.

    If several places have rules, the first of these that sets a rule wins: the operation of the model, the model, the
    operation. The rules of `models."*"` do not apply if `operations.NAME.upstream` determined the upstream. Rules of
    different places that name the same member are joined like this:

    - A `drop` also wins over rules inside the member: `drop: [metadata]` of a model removes
      `set: {metadata.team: x}` of the operation.
    - A `rename` also wins over a `drop` or `set` of its new name from another place.
    - Only a `clamp` of the same member replaces a `clamp`. It follows a `rename`: `clamp: {max_tokens: {max: 100}}` of
      the operation also limits `rename: {max_tokens: max_completion_tokens}` of the model.
    """

    rename: dict[MemberPath, MemberName] = {}
    """Members to send under another name, in the same object. If the client sends both names, the value of the new
    name is sent.

    Example: {max_tokens: max_completion_tokens}
    """
    drop: list[MemberPath] = []
    """Members to leave out.

    Example: [seed, "messages[].name"]
    """
    default: dict[MemberPath, Value] = {}
    """Members to add if the client does not send them, with their values.

    Example: {max_tokens: 500}
    """
    set: dict[MemberPath, Value] = {}
    """Members to send with these values, even if the client sends other values.

    Example: {enable_thinking: false}
    """
    clamp: dict[MemberPath, Bounds] = {}
    """Numbers to keep within bounds, by member.

    Example: {max_tokens: {max: 4096}}
    """
    schema_in_words: bool = False
    """Put the schema of `response_format` into the system message and request `json_object`.

    Danger: The upstream no longer enforces the schema.
    """
    split: Annotated[int, Field(gt=0)] | None = None
    """The most inputs of one embeddings request; more inputs are sent as several requests, and their replies are
    joined. With 1, the input is sent as a plain string. None: no limit.

    Unit: inputs

    Example: 64
    """
    roles: dict[Literal["system", "developer"], Literal["system", "developer", "user"]] = {}
    """Roles to replace; `user` puts the text in front of the first user message's text.

    Example: {developer: system}
    """
    replayed: Literal["keep", "drop", "drop_but_reasoning"] = "keep"
    """Keep or drop the members of an earlier reply that clients send back with the conversation: reasoning,
    annotations, an empty `refusal` or `function_call` and similar ones.

    Danger: DeepSeek's thinking models require their reasoning next to tool calls: use `drop_but_reasoning` for
    them.
    """
    text_content: bool = False
    """Send a list of text parts as one string. Lists with pictures are kept."""
    empty_content: bool = False
    """Send `""` instead of `content: null`, and in an assistant's message without content."""
    merge_roles: bool = False
    """Join adjacent messages of one role that contain only text, and system messages at the front.

    Danger: The model no longer sees separate messages.
    """
    short_tool_ids: bool = False
    """Send tool call ids in the form that Mistral requires: nine letters and digits, the same for the same id."""

    def over(self, base: Rules | None) -> Rules:
        """Return these rules with the entries of `base` that they do not replace.

        An entry of `base` is kept if these rules do not name its path, rename a member to it or drop its parent.
        Roles, and settings that are not set here, also come from `base`. A clamp is replaced only by a clamp of
        the same member, and it follows the renames of the other side.
        """
        if base is None:
            return self
        kept = base.model_copy(update={name: self._entries_to_keep(name, base) for name in PATH_RULES})
        joined: dict[str, Any] = {}
        for name in self.model_fields_set:
            lower, upper = getattr(kept, name), getattr(self, name)
            if isinstance(upper, dict):
                joined[name] = {**lower, **upper}
            else:
                joined[name] = [*lower, *upper] if isinstance(upper, list) else upper
        replaced = {old: name for old, name in base.rename.items() if old not in kept.rename}
        # a replaced rename leaves the member under its old name, so the clamp of the new name must apply there too
        clamps = {old: base.clamp[to] for old in replaced if (to := _renamed(old, replaced)) in base.clamp}
        lower_clamps = _renamed_clamps({**clamps, **base.clamp}, self.rename)
        return kept.model_copy(update={**joined, "clamp": {**lower_clamps, **_renamed_clamps(self.clamp, kept.rename)}})

    def _entries_to_keep(self, rule: str, base: Rules) -> Any:
        """The entries of `base`'s map or list `rule` that these rules do not replace."""
        entries: Any = getattr(base, rule)
        replaced = {path for name in PATH_RULES for path in getattr(self, name)}
        if rule in RUN_AFTER_RENAME:
            replaced.update(_renamed(old, self.rename) for old in self.rename)
        kept = [
            path for path in entries if path not in replaced and not any(_is_inside(path, one) for one in self.drop)
        ]
        return {path: entries[path] for path in kept} if isinstance(entries, dict) else kept


PATH_RULES = ("rename", "drop", "default", "set")
"""Rules that are a map by member path or a list of member paths. `clamp` is joined by other rules."""
RUN_AFTER_RENAME = ("drop", "set")
"""Rules that run after `rename` and would remove the renamed member; a `default` keeps it."""


def _is_inside(path: str, owner: str) -> bool:
    """Whether `path` is in the object at `owner`, or in an object of the list at `owner`."""
    return path.startswith((f"{owner}.", f"{owner}[]."))


def _renamed_clamps(clamps: dict[str, Bounds], renames: dict[str, str]) -> dict[str, Bounds]:
    """`clamps` by the paths after `renames`; a clamp of the new name wins over one that is renamed to it."""
    renamed = {path: _renamed(path, renames) for path in clamps}
    unmoved = {path: bounds for path, bounds in clamps.items() if renamed[path] == path}
    return {**{renamed[path]: bounds for path, bounds in clamps.items()}, **unmoved}


def _renamed(path: str, renames: dict[str, str]) -> str:
    for old, name in renames.items():
        if path == old or _is_inside(path, old):
            owner, dot, _ = old.rpartition(".")
            path = f"{owner}{dot}{name}{path[len(old) :]}"
    return path


ModelKind = Literal["chat", "vision", "embedding", "rerank", "asr", "tts"]


class Capabilities(Block):
    """What the model can do, for clients that request `GET /v1/models`. None leaves the member out. gatepass shows
    these values and enforces none of them, except `token_ids: false`. See docs/model_list.md."""

    kind: ModelKind | None = None
    """The purpose of the model: `vision` is chat with image input, `asr` is speech to text, `tts` is text to speech. A
    profile with `typed_ids` shows it in the listed name.

    Example: vision
    """
    vision: bool | None = None
    """Accepts images."""
    audio: bool | None = None
    """Accepts audio."""
    tools: bool | None = None
    """Calls tools."""
    reasoning: bool | None = None
    """Produces reasoning before the answer."""
    json_schema: bool | None = None
    """Follows a schema in `response_format`."""
    context_length: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of request and answer together.

    Unit: tokens

    Example: 128000
    """
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of an answer.

    Unit: tokens

    Example: 4096
    """
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """The length of an embedding vector.

    Unit: numbers

    Example: 1536
    """
    token_ids: bool | None = None
    """Accepts token ids of its own tokenizer as the input of embeddings. False: gatepass rejects such requests with a
    400. None: gatepass sends them to the upstream; if it rejects them, the error names the remedy.

    Example: false

    Danger: Ids of another tokenizer give wrong vectors without an error. Set `false` if clients may send them, as
    LangChain does by default.
    """


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
"""Operations whose requests name a model."""
OperationName = Literal[OfModel, "files", "batches", "models"]

T = TypeVar("T")
Layer = TypeVar("Layer", TimeoutSettings, Rules)


def block_of_operation(blocks: Mapping[Any, T], operation: str) -> T | None:
    """Return the block of `operation`, or None."""
    return blocks.get(operation)  # the keys are Literals, so mypy accepts a str only through Mapping[Any, T]


class OperationRoute(Block):
    upstream: Name | None = None
    """A name under `upstreams`, for models that no entry of `models` names. None: the same upstream as for other
    operations.

    Example: vectors
    """
    model: str | None = None
    """The model of requests that name none, as clients of Text Embeddings Inference send them. It decides the route,
    the `models` of a key apply to it, and gatepass sends it to the upstream (`default=model`).

    None: `chat`, `completions`, `embeddings` and `responses` without a model get 400. Other operations go to the
    operation's upstream, to `models."*"` or to the only upstream, without a model; they get 404 if there is none.
    Requests that are about no model (`files`, `batches`, kept responses) are routed by this setting and are sent
    without a model.

    Example: bge-reranker
    """
    timeouts: TimeoutSettings | None = None
    """Timeouts of this operation, for all models that set none; they replace those of the upstream one by one.

    Example: {first_byte_s: 60}
    """
    rules: Rules | None = None
    """Changes of all requests of this operation.

    Example: {split: 64}
    """

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expects at least one of upstream, model, timeouts, rules")
        return self


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`.

    Example: second
    """
    name: str | None = None
    """The upstream's name of the model; None sends the client's.

    Example: prod-4o
    """


class TargetList(Block):
    """One upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`.

    Example: chat
    """
    name: str | None = None
    """The upstream's name of the model; None sends the client's. In a block of an operation without `upstream`, None
    means the model's `name`. The `model` in replies is the upstream's name. Only chunks that gatepass writes, such
    as keep-alive chunks, have the public name.

    Example: prod-4o

    Danger: A client that compares the `model` of a reply with its own name sees a difference.
    """
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`. gatepass tries the next one only if nothing of the
    request was written: no connection, no token, or all `max_connections` in use. The client receives the error of
    the last one.

    Example: [{upstream: chat}, {upstream: second, name: prod-4o}]

    Danger: gatepass does not skip an upstream that answers every request with a 500. A host that drops packets
    delays each request by `timeouts.connect_s`.
    """

    @model_validator(mode="after")
    def _upstream_or_targets(self) -> Self:
        if self.upstream is not None and self.targets is not None:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and self.name is not None:
            raise ValueError("name belongs into each of the targets")
        return self

    @property
    def names_upstream(self) -> bool:
        """Whether it names an upstream, and not only the upstream's name of the model."""
        return self.upstream is not None or self.targets is not None

    def ordered_targets(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [] if self.upstream is None else [ModelTarget(upstream=self.upstream, name=self.name)]


class ModelOperation(TargetList):
    """Settings of one operation of a model. They override those of the model."""

    timeouts: TimeoutSettings | None = None
    """Timeouts of this operation; they replace those of the model one by one.

    Example: {first_byte_s: 60}
    """
    stream: Stream | None = None
    """Whether the upstream streams this operation; None: as in the model's `stream`.

    Example: emulate
    """
    rules: Rules | None = None
    """Changes of its requests; they override the model's rules.

    Example: {drop: [seed]}
    """


class Model(TargetList):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    timeouts: TimeoutSettings | None = None
    """Timeouts of this model; they replace those of the upstream one by one.

    Example: {first_byte_s: 900}
    """
    stream: Stream = "auto"
    """Whether the upstream streams. `auto` detects it from the replies. `native` (or `true`): as the client requests,
    and nothing is learned. `emulate` (or `false`): never; gatepass makes a stream from the whole reply.
    `aggregate`: always; gatepass makes a whole reply from the stream.

    Example: emulate

    Danger: With `emulate`, the first word arrives with the last one.
    """
    suggest: str | None = None
    """The public name of a model that error messages suggest if the upstream rejects the request in words that
    gatepass knows. gatepass sends no request to that model. A name without a route is rejected.

    Example: gpt-4o-vision
    """
    rules: Rules | None = None
    """Changes of its requests.

    Example: {rename: {max_tokens: max_completion_tokens}}
    """
    capabilities: Capabilities = Capabilities()
    """What it can do, for the model list.

    Example: {kind: chat, vision: true, context_length: 128000}
    """
    operations: dict[OfModel, ModelOperation] = {}
    """Settings that differ for one operation, such as its upstream.

    Example: {responses: {upstream: think, name: gpt-4o}}

    Danger: Clients request kept responses by id at `operations.responses.upstream`; set that too.
    """

    @model_validator(mode="after")
    def _has_targets(self) -> Self:
        if not self.names_upstream:
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and any(
            own.name is not None and not own.names_upstream for own in self.operations.values()
        ):
            raise ValueError("name of an operation requires an upstream or targets, because the model has targets")
        return self

    def for_operation(self, operation: str, route: OperationRoute | None = None) -> Model:
        """Return this entry with the settings of `operation` applied.

        The model's block of the operation comes first, then the model itself, then `route`, the operation's block for
        all models. Timeouts and rules are joined one by one.
        """
        own = block_of_operation(self.operations, operation)
        if own is None and route is None:
            return self
        own, route = own or _EMPTY_OPERATION, route or _EMPTY_ROUTE
        target_list = own if own.names_upstream else self
        update = {
            "upstream": target_list.upstream,
            "name": own.name or target_list.name,
            "targets": target_list.targets,
            "timeouts": _joined(own.timeouts, self.timeouts, route.timeouts),
            "stream": own.stream or self.stream,
            "rules": _joined(own.rules, self.rules, route.rules),
        }
        return self.model_copy(update=update)

    def all_targets(self) -> list[ModelTarget]:
        """The targets of all operations."""
        return [target for target_list in (self, *self.operations.values()) for target in target_list.ordered_targets()]


_EMPTY_OPERATION = ModelOperation()
_EMPTY_ROUTE = OperationRoute.model_construct()  # its validator rejects an empty block


def _joined(*layers: Layer | None) -> Layer | None:
    """Join the layers that are not None; an earlier layer overrides a later one."""
    joined: Layer | None = None
    # from the weakest, because each layer is laid over what is below it
    for layer in reversed(layers):
        joined = joined if layer is None else layer.over(joined)
    return joined
