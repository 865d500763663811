"""`models.NAME` and `operations.NAME`: targets, repeats, rules and capabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from gatepass.config.block import Block, Name, SettingFault, not_null
from gatepass.config.document import with_leaves
from gatepass.config.network import TimeoutSettings
from gatepass.config.references import Reference
from gatepass.config.use_limits import OwnLimits

MEMBER_PATH = re.compile(r"([A-Za-z_][A-Za-z0-9_-]{0,63}(\[\])?\.){0,8}[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
TOOLS_OF_TYPE = re.compile(r"tools\[([A-Za-z0-9_.-]{1,64})\]\Z")
"""The entries of `tools` of one type, where `drop` leaves them out."""
NOT_A_MEMBER_PATH = "expects the name of a member, such as temperature, metadata.user or messages[].name"
NOT_A_MEMBER_NAME = "expects the new name alone, in the same object: letters, digits and underscores"
_MEMBER = r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z"

PROTECTED_PATHS = {
    "model": "set `name` in the model's entry",
    "stream": "set `stream` in the model's entry",
    "messages": "gatepass never removes the conversation",
    "input": "gatepass never removes the input",
    "messages[].role": "use `roles`",
    "messages[].content": "use `text_content`",
}
"""Member paths that a rule must not name, each with what to do instead."""


def _checked_member(text: str, form: str, error: str) -> str:
    if re.match(form, text) is None:
        raise ValueError(error)
    if text in PROTECTED_PATHS:
        raise ValueError(f"cannot be changed by a rule: {PROTECTED_PATHS[text]}")
    return text


MemberPath = Annotated[str, AfterValidator(partial(_checked_member, form=MEMBER_PATH.pattern, error=NOT_A_MEMBER_PATH))]
DropPath = Annotated[
    str,
    AfterValidator(
        partial(
            _checked_member,
            form=f"{MEMBER_PATH.pattern}|{TOOLS_OF_TYPE.pattern}",
            error=f"{NOT_A_MEMBER_PATH}, or tools[TYPE]",
        )
    ),
]
MemberName = Annotated[str, AfterValidator(partial(_checked_member, form=_MEMBER, error=NOT_A_MEMBER_NAME))]
BETA = re.compile(r"[a-z][a-z0-9-]{0,63}\Z")
"""A value of the header `anthropic-beta`."""
Value = Annotated[
    Any, PlainSerializer(partial(with_leaves, convert=lambda leaf: "(hidden)" if isinstance(leaf, Reference) else leaf))
]
"""A JSON value. `gatepass check` shows it with each reference hidden."""

Policy = Literal["order", "least_in_flight", "weighted"]

ANY = "*"
"""The entry of `models` for all models that no other entry names."""


def is_glob(name: str) -> bool:
    return any(char in name for char in "*?[")


def ordered_globs(names: Iterable[str]) -> list[str]:
    """Return the patterns among `names`, except ANY, in the order in which they are tried: the longest first."""
    # by name too, so that the order in the file does not decide between patterns of one length
    return sorted((name for name in names if is_glob(name) and name != ANY), key=lambda name: (-len(name), name))


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

    def faults(self) -> Iterator[SettingFault]:
        if self.min is None and self.max is None:
            yield "", "expects min, max or both"
        elif self.min is not None and self.max is not None and self.min > self.max:
            yield "", "expects a min that is not above max"


class Rules(Block):
    """Changes of a request before it is sent to a model, in this order. They are set for a model, or for all requests
    of an operation.

    A member path is a dotted name, with `[]` for each object of a list: `temperature`,
    `stream_options.include_usage`, `messages[].name`. Members that no rule names keep their bytes. Rules cannot
    change `model`, `stream`, `messages`, `input` and the role and content of messages.

    If both the model and the operation have rules, the model's rule for a member replaces the operation's rules for
    it. A `rename` also replaces a `drop` or `set` of its new name. The rules of `models."*"` do not apply if
    `operations.NAME.upstream` determined the upstream.

    Only a `clamp` of the same member replaces a `clamp`. A `clamp` follows each `rename`. For example, with
    `clamp: {max_tokens: {max: 100}}` of the operation and `rename: {max_tokens: max_completion_tokens}` of the
    model, `max_completion_tokens` is at most 100.
    """

    rename: dict[MemberPath, MemberName] = {}
    """Members to send under another name, in the same object. If the client sends both names, the value of the new
    name is sent.

    Example: {max_tokens: max_completion_tokens}
    """
    drop: list[DropPath] = []
    """Members to leave out. `tools[TYPE]` leaves out the entries of `tools` with this type, if others remain and
    `tool_choice` names none of them.

    Example: [seed, "messages[].name", "tools[image_generation]"]
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
    """Numbers to keep within bounds, by member. If `max` lowers a limit of the answer, it also lowers
    `thinking.budget_tokens`, as `max_output_tokens` does.

    Example: {max_tokens: {max: 4096}}
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
    text_content: bool = False
    """Send a list of text parts as one string. Lists with pictures are kept."""
    merge_roles: bool = False
    """Join adjacent messages of one role that contain only text, and system messages at the front.

    Danger: The model no longer sees separate messages.
    """
    max_output_tokens: Annotated[Annotated[int, Field(gt=0)] | None, not_null("set a number")] = None
    """The most tokens that a request may ask for: chats, completions, responses and messages. It runs after all other
    rules, the learned ones too. Each member that bounds an answer gets this value if it is larger, null, below 1 or no
    number. Such names contain `max` together with `tok` or `len`, as `max_tokens`, `max_gen_len` and `maxTokenCount`
    do, or are `n_predict`, `num_predict`, `tokens_to_generate` and `request_output_len`. Names with `input`, `prompt`,
    `context`, `seq`, `model` or `chunk` stay. Objects such as `extra_body`, `options`, `parameters`, `inferenceConfig`
    and `sampling_params` are read too, but schemas, tools, texts, variables and metadata in them are not. `max_tokens`,
    `max_completion_tokens`, `max_output_tokens`, `max_new_tokens`, `max_tokens_to_sample`, `n_predict` and
    `num_predict` are bounded even there below `extra_body`, `provider_options`, `generationConfig`, `options` and
    `reasoning`. Where the protocol's own name is not sent, it is added, as `rename` and `drop` leave it. A larger
    `thinking.budget_tokens` becomes half of this value, at least Anthropic's 1024; at 1024 or less, thinking is off.

    Unit: tokens

    Example: 4096

    Danger: An upstream that accepts no such member refuses the request.
    """

    def over(self, base: Rules | None) -> Rules:
        """Return these rules with the entries of `base` that they do not replace.

        They replace the entries whose member they name, and a `drop` or `set` of a new name of `rename`. Roles, and
        settings that are not set here, also come from `base`. A clamp is replaced only by a clamp of the same member,
        and it follows the renames of both.
        """
        if base is None:
            return self
        named = {path for name in PATH_RULES for path in getattr(self, name)}
        new_names = {renamed(old, self.rename) for old in self.rename}
        joined: dict[str, Any] = {}
        for name in self.model_fields_set | {*PATH_RULES}:
            lower, upper = getattr(base, name), getattr(self, name)
            replaced = named | new_names if name in RUN_AFTER_RENAME else named
            kept = [path for path in lower if path not in replaced] if name in PATH_RULES else lower
            if isinstance(upper, dict):
                joined[name] = {**{path: lower[path] for path in kept}, **upper}
            else:
                joined[name] = [*kept, *upper] if isinstance(upper, list) else upper
        renames: dict[str, str] = joined["rename"]
        # a rename that is not kept leaves the member under its old name, so the clamp of the new name applies there too
        lost = {old: renamed(old, base.rename) for old in base.rename if old in named}
        clamps = {old: base.clamp[new] for old, new in lost.items() if new in base.clamp} | base.clamp
        joined["clamp"] = renamed_clamps(clamps, renames) | renamed_clamps(self.clamp, renames)
        return base.model_copy(update=joined)


PATH_RULES = ("rename", "drop", "default", "set")
"""Rules that are a map by member path or a list of member paths. `clamp` is joined by other rules."""
RUN_AFTER_RENAME = ("drop", "set")
"""Rules that run after `rename` and would remove the renamed value; a `default` keeps it."""


def renamed_clamps(clamps: Mapping[str, Bounds], renames: Mapping[str, str]) -> dict[str, Bounds]:
    """`clamps` by the paths after `renames`; a clamp of the new name wins over one that is renamed to it."""
    last = sorted(clamps, key=lambda path: renamed(path, renames) == path)
    return {renamed(path, renames): clamps[path] for path in last}


def renamed(path: str, renames: Mapping[str, str]) -> str:
    for old, name in renames.items():
        if path == old:
            owner, dot, _ = old.rpartition(".")
            path = f"{owner}{dot}{name}"
    return path


ModelKind = Literal["chat", "vision", "embedding", "rerank", "asr", "tts"]

_HINTS: tuple[tuple[ModelKind, tuple[str, ...]], ...] = (
    ("rerank", ("rerank",)),
    ("embedding", ("embed", "bge")),
    ("asr", ("asr", "stt", "transcribe", "whisper")),
    ("tts", ("tts", "text-to-speech")),
    ("vision", ("vl", "vision", "llava", "internvl", "minicpm-v", "gpt-4o", "glm-4v", "qvq", "pixtral")),
)
"""Parts of a name for which RAGFlow searches, in its order. A name without any is a chat model. RAGFlow's list for
vision is longer."""


def guessed(model: str) -> ModelKind:
    """Return the kind that RAGFlow guesses from the name; `vision` is a chat model that accepts images."""
    lower = model.lower()
    return next((kind for kind, hints in _HINTS if any(hint in lower for hint in hints)), "chat")


def kind_by_name(model: str) -> ModelKind:
    # RAGFlow takes a model such as multilingual-e5-large for a chat model
    return "embedding" if "e5-" in model.lower() else guessed(model)


class Capabilities(Block):
    """What the model can do, for clients that request `GET /v1/models`. None leaves the member out. gatepass shows
    these values. It enforces only `dimensions` and `token_ids: false`. See docs/model_list.md."""

    kind: ModelKind | None = None
    """The purpose of the model: `vision` is chat with image input, `asr` is speech to text, `tts` is text to speech.
    The profile `ragflow` shows it in the listed name.

    Example: vision
    """
    vision: bool | None = None
    """Accepts images."""
    context_length: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of request and answer together.

    Unit: tokens

    Example: 128000
    """
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """The length of an embedding vector. If a request names no `dimensions`, vectors of another length are a 502.

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


OfText = Literal["chat", "completions", "embeddings", "rerank"]
OfSoundOrImage = Literal["transcriptions", "translations", "speech", "images"]
OfModel = Literal[OfText, "messages", "responses", OfSoundOrImage, "moderations"]
"""Operations whose requests name a model."""
OperationName = Literal[OfModel, "files", "batches", "models"]
OF_LIST = ("models",)
"""Operations that list models instead of calling one."""

T = TypeVar("T")


def block_of_operation(blocks: Mapping[Any, T], operation: str) -> T | None:
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

    None: `chat`, `completions`, `embeddings`, `responses` and `messages` without a model get 400. Other operations go
    to the operation's upstream, to `models."*"` or to the only upstream, without a model; they get 404 if there is
    none. Requests that are about no model (`files`, `batches`, kept responses) are routed by this
    setting and are sent without a model.

    Example: bge-reranker
    """
    rules: Rules | None = None
    """Changes of all requests of this operation.

    Example: {split: 64}
    """

    def faults(self) -> Iterator[SettingFault]:
        if not self.model_fields_set:
            yield "", "expects at least one of upstream, model, rules"


Protocols = Annotated[list[Literal["chat", "responses", "messages"]], Field(min_length=1)]


LEAST_WEIGHT = 0.001


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`.

    Example: second
    """
    name: str | None = None
    """The upstream's name of the model; None sends the client's.

    Example: prod-4o
    """
    weight: Annotated[float, Field(ge=0, le=1_000_000)] = 1.0
    """Its share of the requests, for `policy: weighted` and `least_in_flight`: 0, or 0.001 and more. A target of
    weight 0 is a spare: it serves requests only while no other target is available.

    Unit: share

    Example: 3
    """

    def faults(self) -> Iterator[SettingFault]:
        if 0 < self.weight < LEAST_WEIGHT:
            yield "weight", f"expects 0 for a spare, or {LEAST_WEIGHT} and more"


class RetryConfig(Block):
    """Which failed requests are repeated before anything of the reply was relayed, in addition to the repeats that
    need no setting.

    See docs/guides/traffic.md#what-is-repeated.
    """

    on: Annotated[list[Literal["refused", "may_have_run"]], Field(min_length=1)] = ["refused"]
    """`refused`: no connection, 429, and 503 with `retry-after`. The upstream has not executed such a request.
    A 429 after the beginning of an answer, or inside a 200, also requires `may_have_run`. So does a request whose
    reused connection closed, because the upstream may have ended at it.
    `may_have_run`: any other 5xx, a timeout, or a reply that was cut or invalid, for the `operations` below.

    Example: [refused, may_have_run]

    Danger: With `may_have_run` the upstream may execute, and charge, a request twice.
    """
    operations: list[
        Literal["chat", "completions", "embeddings", "rerank", "responses", "messages", "moderations"]
    ] = []
    """The operations that `may_have_run` repeats. At most a fifth of the requests are such repeats, or three a second
    if that is more, and 30 at once.

    Example: [embeddings, rerank]
    """
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """The most attempts of a request, the first one included. Repeats that need no setting do not count.

    Unit: attempts

    Example: 2
    """

    def faults(self) -> Iterator[SettingFault]:
        if ("may_have_run" in self.on) != bool(self.operations):
            yield "operations", "expects the operations that `on: [may_have_run]` repeats, and belongs to it alone"


class BreakerConfig(Block):
    """When a target is passed over."""

    failures: Annotated[int, Field(ge=1)] = 5
    """Failures in a row that eject a target.

    Unit: failures

    Example: 3
    """
    ejection_s: Annotated[float, Field(ge=1)] = 30.0
    """The time for which a target is passed over. After it, one request is sent as a probe, and another one if the
    probe takes longer than `ejection_s`. A probe that fails begins the next ejection.

    Example: 10
    """


class Model(Block):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`.

    Example: chat
    """
    name: str | None = None
    """The upstream's name of the model; None sends the client's. The `model` in replies is the upstream's name. Only
    chunks that gatepass writes, such as keep-alive chunks, have the public name.

    Example: prod-4o

    Danger: A client that compares the `model` of a reply with its own name sees a difference.
    """
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`. Without `retry`, gatepass tries the next one only
    if nothing of the request was written: no connection, no token, or all `max_connections` in use. The client receives
    the error of the last one.

    Example: [{upstream: chat}, {upstream: second, name: prod-4o}]

    Danger: Without `breaker`, gatepass does not skip an upstream that fails. A host that drops packets then delays each
    request by `timeouts.connect_s`.
    """
    policy: Policy = "order"
    """Which of the targets is tried first: the first one, the one with the fewest requests of this process in progress
    for its weight, or a random one by weight. The others follow by the same policy.

    With the last two, the requests of a conversation prefer one target: see docs/guides/traffic.md#conversations.

    Example: least_in_flight
    """
    retry: RetryConfig | None = None
    """Which failures are repeated, at the next target or at the same one. None: only what is safe for each request.

    Example: {on: [refused]}
    """
    breaker: BreakerConfig | None = None
    """Pass over a target that fails again and again. None: each request asks it. `{}` sets the defaults.

    Failures are: no connection, a 5xx, a timeout, a reply that was cut or invalid. If all targets are passed over, all
    are tried. These ends of a request are no failure, because the request may be their cause:

    - A 4xx, a 503 with `retry-after` above 0, a refused token, an error of an unknown kind inside a 200.
    - A reply without a choice or vector, a reply that is too large, wrong vectors for a request with `dimensions`.
    - The end of `total_s` at a target that had only a part of it, or that has begun its reply.
    - A client that leaves, even if the target did not answer: set `timeouts.first_byte_s` below the clients' timeouts.

    Example: {}
    """
    timeouts: TimeoutSettings | None = None
    """Timeouts of this model; they replace those of the upstream one by one.

    Example: {first_byte_s: 900}
    """
    stream: Stream = "auto"
    """Whether the upstream streams. `auto` detects it from the replies. `native` (or `true`): as the client requests,
    and nothing is learned. `emulate` (or `false`): never; gatepass makes a stream from the whole reply.
    `aggregate`: always; gatepass makes a whole reply from the stream.

    A reply that is made from a stream, or made into one, has limits: docs/operations/limits_and_memory.md#all-bounds.
    A larger one is 502 `upstream_invalid`.

    Example: emulate

    Danger: With `emulate`, the first word arrives with the last one.
    """
    protocols: Protocols | None = None
    """As `protocols` of its upstream, which it replaces.

    Example: [chat]
    """
    rules: Rules | None = None
    """Changes of its requests.

    Example: {rename: {max_tokens: max_completion_tokens}}
    """
    capabilities: Capabilities = Capabilities()
    """What it can do, for the model list.

    Example: {kind: chat, vision: true, context_length: 128000}
    """
    limits: OwnLimits = None
    """How much all callers together may use of it. The models of a glob share the limit.

    Example: {requests: {minute: 500}}
    """

    def faults(self) -> Iterator[SettingFault]:
        if (self.upstream is None) == (self.targets is None):
            yield "", "expects either upstream or targets"
        elif self.targets is not None and self.name is not None:
            yield "", "name belongs into each of the targets"
        if self.targets is not None and not any(target.weight for target in self.targets):
            yield "targets", "expects a weight above 0 for at least one target"
        if self.targets is None and self.policy != "order":
            yield "", "policy chooses among targets"

    def ordered_targets(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [] if self.upstream is None else [ModelTarget(upstream=self.upstream, name=self.name)]

    def over(self, route: OperationRoute | None) -> Model:
        """Return this entry with the rules of its operation that it does not replace."""
        if route is None:
            return self
        return self.model_copy(update={"rules": route.rules if self.rules is None else self.rules.over(route.rules)})
