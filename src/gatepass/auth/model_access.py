"""Access of a caller: the operations and models that a request may use, also through members of its body.

An upstream may be a gateway itself. LiteLLM, OpenRouter and others accept a fallback model, the URL of another server
or its API key as members of the body. A caller whose key covers only some models may not send them.

An upstream stores the files and the answers of all callers under one credential. They belong to the keys whose
`operations` name them, and the answers to the only caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sized
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from gatepass.auth.caller import Caller
from gatepass.config.access import OF_ANY_MODEL
from gatepass.config.model import Config
from gatepass.errors import BodyTooComplex, NotAllowed
from gatepass.json_body import (
    MOST_MEMBERS,
    UNCOUNTED_BYTES,
    Members,
    Text,
    TopLevel,
    elements,
    folded,
    kind,
    members,
    members_of_each,
    string,
)
from gatepass.types import MAX_MODEL_BYTES, MAX_MODEL_CHARS, Operation

MODELS = frozenset(
    (
        *("models", "model_name", "engine", "deployment", "deployment_id", "azure_deployment"),
        *("fallback", "fallbacks", "fallback_models", "default_fallbacks"),
        *("context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"),
        *("draft_model", "analysis_models", "allowed_models", "preset", "prompt_id", "target_model_names"),
        *("model_id", "base_model", "hf_model_name", "lora_path", "adapter_id"),
    )
)
"""Members that contain the name of a model, several names, or objects with a `model` or with lists of models.

OpenRouter's `preset` and LiteLLM's `prompt_id` name stored settings, which may select a model. A key has to list the
name of these settings. At Bedrock, LiteLLM calls `model_id` instead of `model`. SGLang applies the LoRA `lora_path`."""
DESTINATIONS = frozenset(
    (
        *("api_base", "base_url", "api_url", "endpoint", "azure_endpoint", "server_url", "custom_llm_provider"),
        *("api_key", "api_keys", "azure_ad_token", "authorization", "headers", "extra_headers", "api_type"),
        *("litellm_params", "litellm_credential_name", "model_list", "user_config", "router_settings_override"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_bedrock_runtime_endpoint"),
        *("aws_role_name", "aws_profile_name", "aws_sts_endpoint", "aws_web_identity_token", "aws_region_name"),
        *("vertex_credentials", "vertex_project", "vertex_location"),
        *("vertex_ai_credentials", "vertex_ai_project", "vertex_ai_location"),
        *("azure_username", "azure_password", "client_secret", "data_sources", "byok"),
        *("sagemaker_base_url", "s3_endpoint_url", "deployment_url", "langfuse_host", "langfuse_secret_key"),
        *("mcp_servers", "connector_id", "tunnel_id", "provider_specific_header", "custom_endpoint"),
        *("tenant_id", "client_id", "kv_transfer_params", "bootstrap_host", "openai_api_base", "slack_webhook_url"),
    )
)
"""Members that contain the address of another server, a credential for it, or configurations of both."""
FAMILIES = (
    "aws",
    "oci",
    "langfuse",
    "langsmith",
    "posthog",
    "arize",
    "humanloop",
    "gcs",
    "braintrust",
    "lunary",
    "tensorzero:",
)
"""A member that begins with one of these and `_`, `-` or `:` configures a service. New versions of LiteLLM add such
members. LiteLLM sends its log to `langsmith_base_url`, with the environment variables that other members name."""
NESTED = frozenset(("extra_body", "provider_options"))
"""Members whose own members some servers move to the top level. Those of `provider_options` are objects, in which
Vercel's gateway reads `models` and `byok`."""
TEXT_LISTS = frozenset(("stop", "modalities", "include", "tags", "input", "prompt", "documents"))
"""Members that contain a list of texts, of which none is the name of a model."""

STORED_RESPONSES = "stored_responses"
"""The entry of `operations` that opens the members of STORED."""
STORED = ("previous_response_id", "conversation", "prompt")
"""Members of a request for a response that name a stored object; `prompt` does with its `id`."""

REFUSED_PARTS = MODELS | DESTINATIONS | NESTED
"""Names of form parts that are rejected. No operation with a form has a model in a part other than `model`."""
_STEPS = re.compile(r"[\[\].\0]")
_AROUND_STEP = " \t\n\r\v\f'\""

MOST_MODELS = 1_000
"""Members of a body, and models that it may name elsewhere than in `model`: 125,000 in a list took 170 ms."""
MOST_CHECKED = 20_000
"""Objects and members that are opened in a body up to UNCOUNTED_BYTES, which the event loop reads: 20 ms."""
TOOLS_COST = 5
"""What a list of tools counts there."""
MOST_LEVELS = 16
"""How far down names of models are searched: each level is read with all below it. LiteLLM's lie five levels down."""
CACHED_NAMES, CACHED_CHARS = 1024, 64
"""How many names of members are known as those of a destination or not: requests have the same few. Clients choose
them, so longer ones are not kept."""

_MODEL, _TOOLS, _INPUT, _OPTIONS = "model", "tools", "input", "provideroptions"
_PLUGINS, _PARAMETERS = "plugins", "parameters"


def _normalized(name: str) -> str:
    """Return `name` in lower case and without `_` and `-`: servers in Go and TypeScript read `apiBase`."""
    return folded(name).replace("_", "").replace("-", "")


_MODELS, _DESTINATIONS, _NESTED, _PARTS = (
    frozenset(map(_normalized, names)) for names in (MODELS, DESTINATIONS, NESTED, REFUSED_PARTS)
)
_NAMES_OF_MODELS = _MODELS | {_MODEL}
_OPENED = _MODELS | _NESTED | {_TOOLS, _INPUT, _PLUGINS}
_STORED = {_normalized(name): name for name in STORED}
_EXTRA = _normalized("extra_body")
_FAMILY = tuple(f"{name}{mark}" for name in FAMILIES for mark in "_-:")


def _is_destination(name: str) -> bool:
    return (_cached if len(name) <= CACHED_CHARS else _in_destinations)(name)


def _in_destinations(name: str) -> bool:
    return _normalized(name) in _DESTINATIONS or folded(name).startswith(_FAMILY)


_cached = lru_cache(maxsize=CACHED_NAMES)(_in_destinations)


def check_body_access(caller: Caller, top: TopLevel) -> None:
    """Check the members of a body, of which `check_model_access` checks `model`.

    Names match without case, `_` and `-`, and may be repeated. Raises NotAllowed if one names what the caller's
    key does not cover, and BodyTooComplex.
    """
    if caller.models is None:
        return
    _check_count(top.names)
    others = [name for name in top.names if name != _TOOLS]  # most agents send tools alone
    is_checked = any(_normalized(name) in _OPENED or _is_destination(name) for name in others)
    is_checked = is_checked or top.names.count(_TOOLS) > 1
    if is_checked or _may_name_models(top.values.get(_TOOLS)):
        _check_object(caller, top.listed, _Judged(top), MOST_LEVELS, is_top=True)


class _Judged(set[str]):
    """The models that were judged for one body. It counts what is opened to find them."""

    def __init__(self, top: TopLevel) -> None:
        super().__init__()
        self._left = MOST_CHECKED if len(top.text) <= UNCOUNTED_BYTES else MOST_MEMBERS

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise BodyTooComplex("The body has many objects with tools or models, and this key names its models.")


def _check_count(values: Sized) -> None:
    """Raise BodyTooComplex for more names or models than MOST_MODELS at one place of a body."""
    if len(values) > MOST_MODELS:
        raise BodyTooComplex(
            f"The body has more than {MOST_MODELS} members, tools or models at one place, and this key names its"
            " models."
        )


def _check_level(left: int) -> None:
    """Raise BodyTooComplex for what may name models below MOST_LEVELS."""
    if left < 0:
        raise BodyTooComplex(f"The body may name models more than {MOST_LEVELS} levels down. Send less structure.")


def check_part_access(caller: Caller, name: str) -> None:
    """Check the part `name` of a form, which may name other models, a server or a credential.

    Raises NotAllowed.
    """
    if caller.models is None:
        return
    for step in set(_STEPS.split(name)):  # a name may repeat a step thousands of times
        if _normalized(step).strip(_AROUND_STEP) in _PARTS or _is_destination(step.strip(_AROUND_STEP)):
            raise NotAllowed(
                "model_not_allowed",
                f"The caller {caller.name!r} may use only some models, and the part {name[:200]!r} of the form may name"
                " other models, a server or a credential. Leave it out.",
                param=name[:200],
            )


def stored_member(top: TopLevel) -> str | None:
    """Return the member of STORED by which a request for a response names a stored object, None without one.

    The top level is searched, and `extra_body`, whose members servers move there. Names match without case, `_`
    and `-`.
    """
    named = {_normalized(name) for name in top.names}
    if named.isdisjoint(_STORED) and _EXTRA not in named:
        return None
    moved = [members(value) for given, value in top.listed if _normalized(given) == _EXTRA and kind(value) == "{"]
    for given, value in chain(top.listed, *moved):
        name = _STORED.get(_normalized(given))
        if name is None or kind(value) == "n":
            continue
        if name != STORED[-1]:
            return name
        if kind(value) == "{" and any(_normalized(inner) == "id" for inner, _ in members(value)):
            return f"{name}.id"
    return None


def _opens_stored(caller: Caller, entry: str) -> bool:
    """Whether the caller may use the stored objects of `entry`.

    A key without `operations` opens the responses of the only caller, but not files and batches: these last longer,
    and the account at the upstream may serve others.
    """
    return caller.is_only and entry == STORED_RESPONSES if caller.operations is None else entry in caller.operations


def check_stored_access(caller: Caller, member: str) -> None:
    """Raise NotAllowed if the key does not open stored responses, of which `member` names one."""
    if not _opens_stored(caller, STORED_RESPONSES):
        raise NotAllowed(
            "operation_not_allowed",
            f"The caller {caller.name!r} may not send {member!r}: the upstream stores the responses of all callers"
            f" under one credential. Leave it out and send the content, or {_remedy(caller, STORED_RESPONSES)}",
            param=member,
        )


def _remedy(caller: Caller, entry: str) -> str:
    """Return the action that opens `entry` to the caller, and closes nothing that it uses."""
    if entry == OF_ANY_MODEL and caller.models is not None:
        return "use a key without models: a batch may run any model."
    if caller.operations is not None:
        return f"add {entry!r} to {caller.setting}.operations."
    return (
        f"list all that the caller uses in {caller.setting}.operations, such as [chat, responses, models, {entry}]."
        " Everything else is then closed."
    )


def _check_object(caller: Caller, listed: Members, judged: _Judged, levels: int, *, is_top: bool = False) -> None:
    _check_level(levels)
    _check_count(listed)
    for given, value in listed:
        name = _normalized(given)
        if _is_destination(given):
            raise _destination_not_allowed(caller, given, given)
        if name in _MODELS or (name == _MODEL and not is_top):
            _check_models(caller, given, _models_in(caller, value, judged, levels), judged)
        elif name in (_TOOLS, _INPUT):
            for tools in [_list(value)] if name == _TOOLS else _tools_of_items(value, judged):
                _check_models(caller, name, _models_of_tools(caller, tools, judged, levels), judged)
        elif name == _PLUGINS:
            # OpenRouter's `fusion` has a `model` and `analysis_models`
            _check_count(plugins := _list(value))
            for plugin in _objects(plugins, judged):
                _check_object(caller, plugin, judged, levels - 1)
        elif name in _NESTED and kind(value) == "{":
            options = members(value)
            _check_object(caller, options, judged, levels - 1)
            for _, option in options if name == _OPTIONS else ():
                if kind(option) == "{":
                    _check_object(caller, members(option), judged, levels - 1)


def _tools_of_items(value: msgspec.Raw, judged: _Judged) -> list[list[msgspec.Raw]]:
    """Return the `tools` of each item of an `input`: OpenAI's additional_tools and tool_search_output have them."""
    text = b"[%b]" % b",".join(items := _list(value))
    if b"{" not in text:  # such as token ids
        return []
    if (objects := _objects_in(text)) is not None and _TOOLS not in map(folded, set[str]().union(*objects)):
        return []
    return [_list(inner) for item in _objects(items, judged) for name, inner in item if folded(name) == _TOOLS]


_NAMED = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def _objects_in(listed: Text) -> list[dict[str, msgspec.Raw]] | None:
    """Return the objects of the list that is the text `listed`. None if it is large or has other values too."""
    try:
        return None if memoryview(listed).nbytes > UNCOUNTED_BYTES else _NAMED.decode(listed)
    except (msgspec.ValidationError, RecursionError):
        return None


def _may_name_models(tools: Any) -> bool:
    """Whether one of `tools`, a list of texts or the text of a list, may name a model, a server or a credential."""
    if isinstance(tools, list):
        _check_count(tools)
        tools = b"[%b]" % b",".join(tools)
    elif not isinstance(tools, msgspec.Raw) or kind(tools) != "[":
        return False
    # not its elements before: the tools are a quarter of an agent's body, and a second reading cost 12 % of its turn
    if (objects := _objects_in(tools)) is None:
        return True
    _check_count(objects)
    _check_count(names := set[str]().union(*objects))
    return any(folded(name) in (_MODEL, _PARAMETERS, _TOOLS) or _is_destination(name) for name in names)


def _list(value: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the values of a list, none of another value."""
    return elements(value) if kind(value) == "[" else []


def _objects(values: list[msgspec.Raw], judged: _Judged) -> Iterator[Members]:
    for listed in members_of_each(values):
        judged.spend(1 + len(listed))
        yield listed


def _destination_not_allowed(caller: Caller, name: str, param: str) -> NotAllowed:
    return NotAllowed(
        "model_not_allowed",
        f"The caller {caller.name!r} may use only some models, and {name!r} may name another server or credential."
        " Leave it out.",
        param=param,
    )


def _check_models(caller: Caller, member: str, models: Iterator[str], judged: _Judged) -> None:
    """Check `models`, apart from those `judged` for this body, which are added."""
    for model in models:
        if caller.models is None or model in caller.models:
            continue
        for name in _names(model):
            if name in judged:
                continue
            judged.add(name)
            _check_count(judged)
            if any(fnmatchcase(name, pattern) for pattern in caller.models):
                continue
            raise NotAllowed(
                "model_not_allowed",
                f"The caller {caller.name!r} may not use the model {model[:200]!r}, which `{member}` names.",
                param=member,
            )


def _models_in(caller: Caller, value: msgspec.Raw, judged: _Judged, levels: int) -> Iterator[str]:
    """Yield the models in a value: a name, a list, or an object with a `model` or with lists."""
    _check_level(levels)
    if (first := kind(value)) == '"':
        yield _model(caller, value)
    elif first == "[":
        values = elements(value)
        _check_count(values)
        for one in values:
            yield from _models_in(caller, one, judged, levels - 1)
    elif first == "{":
        listed = members(value)
        _check_count(listed)
        if any(folded(name) == _MODEL for name, _ in listed):
            _check_object(caller, listed, judged, levels - 1)
            lists = [inner for name, inner in listed if kind(inner) == "[" and name not in TEXT_LISTS]
            for values in map(elements, lists):
                _check_count(values)
                yield from (_model(caller, one) for one in values if kind(one) == '"')
            return
        for _, inner in listed:
            yield from _models_in(caller, inner, judged, levels - 1)


def _model(caller: Caller, value: msgspec.Raw) -> str:
    """Return the model that the string `value` names. A list of 15 million names would take 0.7 s."""
    if memoryview(value).nbytes > MAX_MODEL_BYTES:
        raise NotAllowed(
            "model_not_allowed",
            f"The caller {caller.name!r} may use only some models, and the body names another one with more than"
            f" {MAX_MODEL_CHARS} characters.",
        )
    return string(value)


def _models_of_tools(caller: Caller, tools: list[msgspec.Raw], judged: _Judged, levels: int) -> Iterator[str]:
    """Yield the models of each tool: the `model` of OpenAI's image_generation, those in `parameters` of OpenRouter's.

    A namespace of the Responses API has `tools` of its own. Raises NotAllowed if a tool names a server or a credential,
    as OpenAI's mcp does. The schema of a function's parameters is not checked: what it describes is in its
    `properties`.
    """
    _check_level(levels)
    judged.spend(TOOLS_COST)
    for tool in _objects(tools, judged) if _may_name_models(tools) else ():
        for name, inner in tool:
            if _is_destination(name):
                raise _destination_not_allowed(caller, name, "tools")
            if folded(name) == _MODEL and kind(inner) == '"':
                yield _model(caller, inner)
            elif folded(name) == _TOOLS:
                yield from _models_of_tools(caller, _list(inner), judged, levels - 1)
            elif folded(name) == _PARAMETERS and kind(inner) == "{":
                for parameter, one in members(inner):
                    if _normalized(parameter) in _NAMES_OF_MODELS:
                        yield from _models_in(caller, one, judged, levels - 1)


def check_calls_models(caller: Caller) -> None:
    """Raise NotAllowed if the role of the caller's key only reads pages."""
    if caller.role == "viewer":
        raise NotAllowed(
            "role_not_allowed",
            f"The caller {caller.name!r} may not call models, because it has the role {caller.role}."
            f" {caller.other_role('caller')}",
        )


def check_model_access(caller: Caller, model: str) -> None:
    """Raise NotAllowed if the caller's key does not cover `model` or calls no model."""
    check_calls_models(caller)
    if not model and not may_use(caller, model):
        raise NotAllowed(
            "model_not_allowed", f"The caller {caller.name!r} may use only some models, and the request names none."
        )
    if not may_use(caller, model):
        raise NotAllowed(
            "model_not_allowed", f"The caller {caller.name!r} may not use the model {model!r}.", param="model"
        )


def check_operation_access(caller: Caller, operation: Operation) -> None:
    """Raise NotAllowed if the caller's key does not open `operation`.

    A key without `operations` opens all but those on stored objects, of which the only caller may use its responses.
    """
    entry = operation.opened_by
    if (caller.operations is None and not operation.is_about_stored) or _opens_stored(caller, entry):
        return
    reason = f"its {'row' if caller.is_of_row else 'key'} does not list it"
    if caller.operations is None:
        reason = "the upstream stores the objects of all callers under one credential"
    remedy = _remedy(caller, entry)
    raise NotAllowed(
        "operation_not_allowed",
        f"The caller {caller.name!r} may not use {entry}, because {reason}. {remedy[0].upper()}{remedy[1:]}",
    )


def may_use(caller: Caller, model: str) -> bool:
    """Whether the caller's key covers `model`. LiteLLM reads `a,b` as two models, so a glob has to match each."""
    if caller.models is None or model in caller.models:
        return True
    return all(any(fnmatchcase(name, pattern) for pattern in caller.models) for name in _names(model))


def _names(model: str) -> tuple[str, ...]:
    return (model, *map(str.strip, model.split(","))) if "," in model else (model,)


def may_use_server(caller: Caller, server: str) -> bool:
    """Whether `caller` may use the MCP server. Without `mcp` it may, unless it has `models` or `operations`."""
    if caller.role == "viewer":
        return False
    return server in caller.mcp if caller.mcp is not None else caller.models is None and caller.operations is None


def usable_servers(caller: Caller, config: Config) -> str:
    """Return a sentence with the paths of the MCP servers that `caller` may use, after a space; "" for none."""
    paths = [f"{config.server.base_path}/mcp/{name}" for name in config.mcp if may_use_server(caller, name)]
    return f" This {'row' if caller.is_of_row else 'key'} may use: {', '.join(paths)}." if paths else ""
