"""`profiles`: what a client needs beyond the plain API. Data only; adapt/, relay/ and admission/ act on it.

A profile is chosen by the caller's key (`access.keys[].profile`) or by the path (`/for/NAME/v1/…`), which wins, since
one key may serve several clients; never by guessing from a User-Agent or a body. Without either it is `plain`.

`access`: who may come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from gatepass.config.block import HASH, Block, Name, SecretText
from gatepass.config.references import Reference
from gatepass.config.routes import MemberPath

BuiltIn = Literal[
    "plain",
    "ragflow",
    "librechat",
    "dify",
    "open_webui",
    "cherry_studio",
    "cline",
    "continue",
    "lobechat",
    "n8n",
    "opencode",
    "vscode",
]
KeepAliveMode = Literal["comment", "empty-delta", "off"]
Dialect = Literal["openai", "azure", "ragflow"]
ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]-]+)$"
"""As a browser writes it: https://fetch.spec.whatwg.org/#origin-header."""
CorsOrigin = Annotated[str, Field(pattern=ORIGIN)]

THINKING = ["chat_template_kwargs", "enable_thinking", "thinking", "do_sample"]
"""RAGFlow and Dify put these beside the messages; vLLM wants the first, Azure refuses them all."""


class Profile(Block):
    """What is done for a client. An entry under a built-in name changes that one; what it leaves out stays."""

    like: BuiltIn | None = None
    """The built-in profile to begin with; None: the one of the same name, else plain."""
    drop: list[MemberPath] = []
    """Members to leave out of every request, beside drop_params and model_type, which nobody may send."""
    drop_null: list[MemberPath] = []
    """Members to leave out where they are null."""
    drop_for: dict[Dialect, list[MemberPath]] = {}
    """Members to leave out on the way to upstreams of a dialect."""
    plain_tools: bool = False
    """Send nothing in an entry of `tools` but `type` and `function`."""
    keep_alive: KeepAliveMode = "comment"
    """What a stream that waits is kept alive with: a comment line, a chunk without text, or nothing. Only with the
    first do comments of the upstream's own pass."""
    whole_numbers: bool = False
    """Put a `usage` of whole numbers into every plain reply, zeros where the upstream tells none; in streams, make
    whole what is told."""
    content_text: bool = False
    """Put `""` in the place of `content: null` into plain replies that call no tool."""
    envelope: bool = False
    """Put `object` and `model` into plain replies that lack them."""
    places_usage: bool = False
    """Send the usage of a stream that did not ask for it once, where RAGFlow's own count of tokens does not add it."""
    splits_finish: bool = False
    """Send a finish reason in a chunk without text."""
    without_choices: Literal["move", "keep", "drop"] = "move"
    """What becomes of chunks without choices that hold something else: into the next chunk, as it is, or left out."""
    fills_choices: bool = False
    """Give chunks without choices, such as the last one with the usage, a choice that says nothing."""
    only_chunks: bool = False
    """Leave out events of a stream that are no chunks: that have no choices, and are no errors."""
    plain_events: bool = False
    """Send each event of a stream of chunks as one line `data: …` and a blank line, ended by line feeds, with no name,
    id or comment."""
    line_bytes: Annotated[int, Field(ge=65_536)] | None = None
    """The longest line of a stream: a longer chunk is cut into several; None: any."""
    rewords_errors: bool = False
    """Word the error that ends a begun stream so that RAGFlow does not send the request again; the upstream's own
    text then stands in the error's `upstream`."""
    unwraps_keys: bool = False
    """Take the key out of a JSON object that is sent in its place."""
    typed_ids: bool = False
    """List models under names that tell their type where their own does not."""
    cors_origins: list[CorsOrigin] = []
    """Pages that may call gatepass from a browser, such as https://chat.corp.example; `*` is every page."""


PLAIN = Profile()

BUILT_IN: Mapping[str, Profile] = MappingProxyType(
    {
        **dict.fromkeys(get_args(BuiltIn), PLAIN),
        # rag/llm/chat_model.py and cv_model.py up to v0.27, and the Go client of internal/entity/models
        "ragflow": Profile(
            drop=["messages[].tool_calls[].index"],
            drop_for={"azure": THINKING},
            whole_numbers=True,
            places_usage=True,
            splits_finish=True,
            line_bytes=1_000_000,
            rewords_errors=True,
            unwraps_keys=True,
            typed_ids=True,
        ),
        # danny-avila/LibreChat#11189
        "librechat": Profile(drop_null=["tools[].strict", "tools[].function.strict"]),
        # its parser cuts at two line feeds and throws away what begins with ":", the event behind our comment with it;
        # it takes off the very bytes "data: ", and looks for choices in all that is left but [DONE]
        # (dify-plugin-sdks, openai_compatible/llm.py at 0021d0c); it checks a reranker with a `score_threshold` that it
        # applies itself, a voice with `instruction: null`, and adds no embedding model whose replies do not name it
        # (dify-official-plugins, models/openai_api_compatible, and #1404 there)
        "dify": Profile(
            drop=["score_threshold"],
            drop_null=["instruction"],
            drop_for={"azure": THINKING},
            keep_alive="empty-delta",
            whole_numbers=True,
            envelope=True,
            only_chunks=True,
            plain_events=True,
        ),
        # CherryHQ/cherry-studio#4726
        "cherry_studio": Profile(plain_tools=True),
        # it looks into `choices[0]` of every chunk, of that with the usage too (src/core/api/providers/openai.ts)
        "cline": Profile(fills_choices=True, only_chunks=True),
        # continuedev/continue#13187: what arrives together with a comment is lost
        "continue": Profile(keep_alive="empty-delta"),
    }
)
"""The others need what every client gets, and so are plain: their names may stand in a configuration all the same."""


def resolved(own: Mapping[str, Profile]) -> Mapping[str, Profile]:
    """All profiles by name: the built-in ones, and an operator's `own`, each with what it begins with filled in."""
    found = dict(BUILT_IN)
    for name, profile in own.items():
        base = BUILT_IN[profile.like] if profile.like is not None else BUILT_IN.get(name, PLAIN)
        found[name] = base.model_copy(update={field: getattr(profile, field) for field in profile.model_fields_set})
    return MappingProxyType(found)


def keys_in(text: str) -> tuple[str, ...]:
    """The keys in the text of `access.keys[].key`: one, or several with white space between them."""
    return tuple(text.split())


FIXED_KEYS = ("empty", "lm-studio", "x")
"""Keys that RAGFlow's classes LocalAI and LM-Studio send whatever is configured (rag/llm/chat_model.py), and older
versions where the field was left empty: everybody knows them."""
_FIXED_HASHES = frozenset(f"sha256:{sha256(key.encode()).hexdigest()}" for key in FIXED_KEYS)


class AccessKey(Block):
    name: Name
    """How the caller is called in logs and metrics."""
    hash: Annotated[str, Field(pattern=HASH)] | None = None
    """From `gatepass keys new`."""
    key: SecretText | None = None
    """The key itself, by reference only: `${NAME}` or `${file:/path}`. A file may hold several, one per line."""
    models: list[str] | None = None
    """The public model names (or globs) this key may use; None: all."""
    profile: Name | None = None
    """What this caller's client needs: a built-in profile or one of `profiles`; None: the plain API."""
    max_concurrent: Annotated[int, Field(gt=0)] | None = None
    """Requests of this caller under way at once; one more is 429 `concurrency_limited`. None: no limit of its own."""

    @field_validator("key", mode="before")
    @classmethod
    def _by_reference(cls, value: Any) -> Any:
        if isinstance(value, Reference) or not isinstance(value, str):
            return value
        raise ValueError("expects a reference, ${NAME} or ${file:/path}, never the key in plain text")

    @model_validator(mode="after")
    def _one_form(self) -> AccessKey:
        if (self.hash is None) == (self.key is None):
            raise ValueError("expects either hash or key")
        if self.hash in _FIXED_HASHES and (not self.models or any(set(model) <= {"*"} for model in self.models)):
            fixed = ", ".join(FIXED_KEYS)
            raise ValueError(f"is the hash of a key that everybody knows ({fixed}): limit it by models to one model")
        return self


class Access(Block):
    """Who may come in."""

    keys: list[AccessKey] = []
    """Without keys gatepass serves loopback only."""
    metrics_open: bool = False
    """Serve /metrics without a key also where keys are configured."""

    @property
    def callers(self) -> int:
        """How many callers there are: entries of one name are one caller, and without keys there is one."""
        return len({key.name for key in self.keys}) or 1
