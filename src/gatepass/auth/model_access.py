"""Access of a caller: the models, operations and stored objects that a request may use, also through its members.

An upstream may be a gateway itself. LiteLLM, OpenRouter and others accept a fallback model, the URL of another server
or its API key as members of the body. A caller whose key covers only some models may not send them.

An upstream stores the files and the answers of all callers under one credential. `closed_objects` decides which kinds
of them are closed to a caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

from gatepass.config.access import OF_ANY_MODEL, AccessKey
from gatepass.errors import ModelNotAllowed, OperationNotAllowed, RoleNotAllowed
from gatepass.json_scan import NAME_BYTES, JsonScanner, any_of, folded, may_fold, parts_with_names, string
from gatepass.types import MAX_MODEL_BYTES, MAX_MODEL_CHARS, Operation

MODELS = frozenset(
    (
        *("models", "model_name", "engine", "deployment", "deployment_id", "azure_deployment"),
        *("fallback", "fallbacks", "fallback_models", "default_fallbacks"),
        *("context_window_fallbacks", "content_policy_fallbacks"),
        *("draft_model", "analysis_models", "allowed_models", "preset", "prompt_id"),
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
        *("tenant_id", "client_id", "kv_transfer_params", "bootstrap_host"),
    )
)
"""Members that contain the address of another server, a credential for it, or configurations of both."""
FAMILIES = ("aws", "oci", "langfuse", "langsmith", "posthog", "arize", "humanloop", "gcs", "tensorzero:")
"""A member that begins with one of these and `_`, `-` or `:` configures a service. New versions of LiteLLM add such
members. LiteLLM sends its log to `langsmith_base_url`, with the environment variables that other members name."""
NESTED = frozenset(("extra_body", "provider_options"))
"""Members whose own members some servers move to the top level. Those of `provider_options` are objects, in which
Vercel's gateway reads `models` and `byok`."""
TEXT_LISTS = frozenset(("stop", "modalities", "include", "tags", "input", "prompt", "documents"))
"""Members that contain a list of texts, of which none is the name of a model."""

ANSWERS, FILES = "responses", "files"
OF_ANSWERS = ("previous_response_id", "conversation", "conversation_id", "thread_id", "assistant_id", "cached_content")
OF_FILES = (
    *("file_id", "file_ids", "input_file_id", "vector_store_id", "vector_store_ids"),
    *("container", "container_id", "skill_id"),
)
"""Members that name stored objects, at any depth. `GET responses` opens the first ones, `GET files` the second ones.

`prompt` with an object, `audio` and `container` with an `id`, and items of `input` by their id name such objects too.
OpenAI's tools continue in the container that an item of the input names. Gemini's cached content is a prompt."""
REFERENCES = ("item_reference", "image_generation_call")
"""Types of items of `input` that name an earlier item by their `id`."""
FREE = frozenset(
    (
        *("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "examples"),
        *("metadata", "arguments", "documents"),
    )
)
"""Members whose own members the client invents: parts of a JSON Schema, and texts with any fields."""

REFUSED_PARTS = MODELS | DESTINATIONS | NESTED
"""Names of form parts that are rejected. No operation with a form has a model in a part other than `model`."""
_STEPS = re.compile(r"[\[\].\0]")
_AROUND_STEP = " \t\n\r\v\f'\""

_MODEL, _TOOLS, _INPUT, _OPTIONS = "model", "tools", "input", "provideroptions"
_PLUGINS, _PARAMETERS = "plugins", "parameters"
# One search for all names, because nearly every body contains none of them.
_ANY = any_of(
    *(name.replace("_", "[_-]?") for name in sorted({*REFUSED_PARTS, _PLUGINS})),
    *(rf"{family}[_:-][^\"]{{1,64}}" for family in FAMILIES),
)
_PROMPT, _AUDIO, _CONTAINER = "prompt", "audio", "container"
_STORED: Mapping[str, str] = {
    **{name.replace("_", ""): ANSWERS for name in (*OF_ANSWERS, _PROMPT, _AUDIO)},
    **{name.replace("_", ""): FILES for name in OF_FILES},
}
"""The kind of the object that a member names, by the name of the member as `_normalized` returns it."""
_NAMES_OF_STORED = tuple(name.replace("_", "[_-]?") for name in (*OF_ANSWERS, *OF_FILES, _PROMPT, _AUDIO))
_ANY_STORED, _ANY_STORED_OR_ID = any_of(*_NAMES_OF_STORED), any_of(*_NAMES_OF_STORED, "id")
_QUOTED_MODEL, _QUOTED_TOOLS = b'"model"', b'"tools"'


def _normalized(name: str) -> str:
    """Return `name` in lower case and without `_` and `-`: servers in Go and TypeScript read `apiBase`."""
    return folded(name).replace("_", "").replace("-", "")


_MODELS, _DESTINATIONS, _NESTED, _PARTS = (
    frozenset(map(_normalized, names)) for names in (MODELS, DESTINATIONS, NESTED, REFUSED_PARTS)
)
_NAMES_OF_MODELS = _MODELS | {_MODEL}
_FAMILY = tuple(f"{name}{mark}" for name in FAMILIES for mark in "_-:")


def _is_destination(name: str) -> bool:
    return _normalized(name) in _DESTINATIONS or folded(name).startswith(_FAMILY)


def check_body_access(
    caller: AccessKey,
    body: bytes,
    *,
    names_model: bool = False,
    closed: Collection[str] = (),
    has_items: bool = False,
    free: Collection[str] = (),
) -> None:
    """Check a JSON `body` that a parser has accepted. Names match without case, `_` and `-`, and may be repeated.

    `names_model`: the object has exactly one own `model` member, without escapes. `check_model_access` checks that one.
    `closed`: the kinds of stored objects that no member may name. `has_items`: an item of `input` may name one.
    `free`: members like those of FREE.
    Raises ModelNotAllowed and OperationNotAllowed if `body` names what the caller's key does not cover, and
    TooManySteps (see JsonScanner).
    """
    parts = [part.lower() for part in parts_with_names(body)]
    has_spelling = any(map(may_fold, parts))
    if closed and (has_spelling or any(map((_ANY_STORED_OR_ID if has_items else _ANY_STORED).search, parts))):
        _check_stored(caller, JsonScanner(body), closed, free)
    if caller.models is None:
        return
    if not has_spelling and not any(map(_ANY.search, parts)):
        # Only a tool may still name a model. Without another `"model"` than the top level's, no tool does.
        if sum(part.count(_QUOTED_MODEL) for part in parts) <= names_model:
            return
        if not any(_QUOTED_TOOLS in part for part in parts):
            return
    del parts  # as large as the body if it has no long strings
    _check_object(caller, JsonScanner(body), 0, is_top=True)


def check_part_access(caller: AccessKey, name: str, closed: Collection[str] = ()) -> None:
    """Check the part `name` of a form, which may name other models, a server, a credential or a stored object.

    Raises ModelNotAllowed and OperationNotAllowed. `closed` as in `check_body_access`.
    """
    if caller.models is None and not closed:
        return
    steps = set(_STEPS.split(name))  # a name may repeat a step thousands of times
    plain = {_normalized(step).strip(_AROUND_STEP) for step in steps}
    for step in plain & _STORED.keys():
        # the part `prompt` is a text, and only `prompt[id]` names a stored one
        if _STORED[step] in closed and (step not in (_PROMPT, _AUDIO) or "id" in plain):
            raise _not_opened(caller, name, _STORED[step])
    for step in steps if caller.models is not None else ():
        if _normalized(step).strip(_AROUND_STEP) in _PARTS or _is_destination(step.strip(_AROUND_STEP)):
            raise ModelNotAllowed(
                f"The caller {caller.name!r} may use only some models, and the part {name[:200]!r} of the form may name"
                " other models, a server or a credential. Leave it out.",
                param=name[:200],
            )


def closed_objects(caller: AccessKey, *, shares_objects: bool) -> tuple[str, ...]:
    """Return the kinds of stored objects that are closed to the caller: those that its `operations` do not open.

    `shares_objects`: several callers reach the upstream. Without `operations`, all are closed to a caller that shares
    them or that may use only some models.
    """
    if caller.operations is None:
        return (ANSWERS, FILES) if shares_objects or caller.models is not None else ()
    return tuple(kind for kind in (ANSWERS, FILES) if not _opens(caller, "GET", kind))


def _opens(caller: AccessKey, method: str, name: str) -> bool:
    listed: Collection[str] = caller.operations or ()
    return name in listed or f"{method} {name}" in listed


def _not_opened(caller: AccessKey, member: str, kind: str) -> OperationNotAllowed:
    # an upstream with chat completions alone stores no response, whatever the key opens
    instead = " and send its content, or, if the upstream stores responses," if kind == ANSWERS else ", or"
    return OperationNotAllowed(
        f"The caller {caller.name!r} may not name objects that the upstream stores for all callers, and"
        f" {member[:200]!r} names one. Leave it out{instead} {_remedy(caller, f'GET {kind}')}",
        param=member[:200],
    )


def _remedy(caller: AccessKey, entry: str) -> str:
    """Return the action that opens `entry` to the caller, and closes nothing that it uses."""
    if entry in OF_ANY_MODEL and caller.models is not None:
        return "use a key without models: a batch may run any model."
    if caller.operations is not None:
        return f"add {entry!r} to access.keys[].operations."
    # a batch names a file
    entries = f'"{entry}", "GET files"' if entry == "POST batches" else f'"{entry}"'
    return (
        f"list all that the caller uses in access.keys[].operations, such as [chat, models, {entries}]."
        " Everything else is then closed."
    )


def _check_stored(caller: AccessKey, scanner: JsonScanner, closed: Collection[str], free: Collection[str]) -> None:
    for name, value in scanner.inner_members(FREE.union(free)):
        plain = _normalized(name)
        kind = _STORED.get(plain)
        if kind in closed and kind is not None and _names_object(scanner, plain, value):
            raise _not_opened(caller, name, kind)
        if plain == _INPUT and ANSWERS in closed:
            for number, item in _objects(scanner, value):
                if _is_reference(scanner, item):
                    raise _not_opened(caller, f"input[{number}]", ANSWERS)


def _names_object(scanner: JsonScanner, name: str, value: int) -> bool:
    """Whether the value at `value` of the member `name` names a stored object. Null and an empty list name none."""
    text = scanner.text
    if text.startswith(b"{", value) and name in (_AUDIO, _CONTAINER):  # `{"type": "auto"}` is a new container
        return any(_normalized(member.name) == "id" for member in scanner.members(value))
    if name in (_PROMPT, _AUDIO):
        return name == _PROMPT and text.startswith(b"{", value)
    if text.startswith(b"[", value):
        return next(scanner.elements(value), None) is not None
    return not text.startswith(b"null", value)


def _is_reference(scanner: JsonScanner, at: int) -> bool:
    """Whether the item of `input` at `at` is an earlier one: by its type, or because it has only an id.

    OpenAI's types accept such an item with a role too.
    """
    types, has_id, has_content = list[str](), False, False
    for member in scanner.members(at):
        name, first = folded(member.name), scanner.text[member.value : member.value + 1]
        if name == "type" and first == b'"' and member.end - member.value <= NAME_BYTES:
            types.append(folded(string(scanner.text[member.value : member.end])))
        has_id |= name == "id" and first != b"n"
        has_content |= name == "content" and first != b"n"
    return has_id and (any(kind in REFERENCES for kind in types) if types else not has_content)


def _check_object(caller: AccessKey, scanner: JsonScanner, at: int, *, is_top: bool = False) -> None:
    for member in scanner.members(at):
        name = _normalized(member.name)
        if _is_destination(member.name):
            raise _destination_not_allowed(caller, member.name, member.name)
        if name in _MODELS or (name == _MODEL and not is_top):
            _check_models(caller, member.name, _models_in(caller, scanner, member.value))
        elif name == _TOOLS:
            _check_models(caller, "tools", _models_of_tools(caller, scanner, member.value))
        elif name == _INPUT:
            # OpenAI's items additional_tools and tool_search_output have `tools`
            for _, item in _objects(scanner, member.value):
                for part in scanner.members(item):
                    if folded(part.name) == _TOOLS:
                        _check_models(caller, "input", _models_of_tools(caller, scanner, part.value))
        elif name == _PLUGINS:
            # OpenRouter's `fusion` has a `model` and `analysis_models`
            for _, plugin in _objects(scanner, member.value):
                _check_object(caller, scanner, plugin)
        elif name in _NESTED and scanner.text.startswith(b"{", member.value):
            _check_object(caller, scanner, member.value)
            for option in scanner.members(member.value) if name == _OPTIONS else ():
                if scanner.text.startswith(b"{", option.value):
                    _check_object(caller, scanner, option.value)


def _objects(scanner: JsonScanner, at: int) -> Iterator[tuple[int, int]]:
    """Yield the index and the place of each object in the list at `at`; nothing for another value."""
    if scanner.text.startswith(b"[", at):
        for number, (start, _) in enumerate(scanner.elements(at)):
            if scanner.text.startswith(b"{", start):
                yield number, start


def _destination_not_allowed(caller: AccessKey, name: str, param: str) -> ModelNotAllowed:
    return ModelNotAllowed(
        f"The caller {caller.name!r} may use only some models, and {name!r} may name another server or credential."
        " Leave it out.",
        param=param,
    )


def _check_models(caller: AccessKey, member: str, models: Iterator[str]) -> None:
    for model in models:
        if not may_use(caller, model):
            raise ModelNotAllowed(
                f"The caller {caller.name!r} may not use the model {model[:200]!r}, which `{member}` names.",
                param=member,
            )


def _models_in(caller: AccessKey, scanner: JsonScanner, at: int) -> Iterator[str]:
    """Yield the models in the value at `at`: a name, a list, or an object with a `model` or with lists."""
    first = scanner.text[at : at + 1]
    if first == b'"':
        yield _model(caller, scanner, at, scanner.value_end(at))
    elif first == b"[":
        for start, _ in scanner.elements(at):
            yield from _models_in(caller, scanner, start)
    elif first == b"{":
        listed = list(scanner.members(at))
        if any(folded(member.name) == _MODEL for member in listed):
            _check_object(caller, scanner, at)
            lists = [m for m in listed if scanner.text.startswith(b"[", m.value) and m.name not in TEXT_LISTS]
            for start, end in (span for member in lists for span in scanner.elements(member.value)):
                if scanner.text.startswith(b'"', start):
                    yield _model(caller, scanner, start, end)
            return
        for member in listed:
            yield from _models_in(caller, scanner, member.value)


def _model(caller: AccessKey, scanner: JsonScanner, start: int, end: int) -> str:
    """Return the model that the string from `start` to `end` names. A list of 15 million names would take 0.7 s."""
    if end - start > MAX_MODEL_BYTES:
        raise ModelNotAllowed(
            f"The caller {caller.name!r} may use only some models, and the body names another one with more than"
            f" {MAX_MODEL_CHARS} characters."
        )
    return string(scanner.text[start:end])


def _models_of_tools(caller: AccessKey, scanner: JsonScanner, at: int) -> Iterator[str]:
    """Yield the models of each tool: the `model` of OpenAI's image_generation, those in `parameters` of OpenRouter's.

    Raises ModelNotAllowed if a tool names a server or a credential, as OpenAI's mcp does. The schema of a function's
    parameters is not checked: what it describes is in its `properties`.
    """
    for _, tool in _objects(scanner, at):
        for member in scanner.members(tool):
            if _is_destination(member.name):
                raise _destination_not_allowed(caller, member.name, "tools")
            if folded(member.name) == _MODEL and scanner.text.startswith(b'"', member.value):
                yield _model(caller, scanner, member.value, member.end)
            elif folded(member.name) == _PARAMETERS and scanner.text.startswith(b"{", member.value):
                for parameter in scanner.members(member.value):
                    if _normalized(parameter.name) in _NAMES_OF_MODELS:
                        yield from _models_in(caller, scanner, parameter.value)


def check_calls_models(caller: AccessKey) -> None:
    """Raise RoleNotAllowed if the role of the caller's key only reads pages."""
    if not caller.calls_models:
        raise RoleNotAllowed(
            f"The caller {caller.name!r} may not call models, because its key has the role {caller.role}."
            " Use a key with the role caller or admin (`gatepass keys new`)."
        )


def check_model_access(caller: AccessKey, model: str) -> None:
    """Raise ModelNotAllowed if the caller's key does not cover `model`, and RoleNotAllowed if it calls no model."""
    check_calls_models(caller)
    if not model and not may_use(caller, model):
        raise ModelNotAllowed(f"The caller {caller.name!r} may use only some models, and the request names none.")
    if not may_use(caller, model):
        raise ModelNotAllowed(f"The caller {caller.name!r} may not use the model {model!r}.", param="model")


def check_operation_access(caller: AccessKey, operation: Operation, *, shares_objects: bool = False) -> None:
    """Raise OperationNotAllowed if the caller's key does not open `operation`.

    `shares_objects` as in `closed_objects`. An operation on stored objects is closed like a member that names one.
    """
    if caller.operations is None and not ((shares_objects or caller.models is not None) and operation.is_about_stored):
        return
    name = operation.configured_as
    method = "DELETE" if operation.cancels else operation.method
    if _opens(caller, method, name):
        return
    reason = "its key does not list it"
    if caller.operations is None:
        reason = "the upstream stores the objects of all callers under one credential"
    entry = f"{method} {name}" if operation.is_about_stored or name == ANSWERS else name
    use = f"cancel {name}" if operation.cancels else f"use {operation.method} {name}"
    remedy = _remedy(caller, entry)
    raise OperationNotAllowed(
        f"The caller {caller.name!r} may not {use}, because {reason}. {remedy[0].upper()}{remedy[1:]}"
    )


def may_use(caller: AccessKey, model: str) -> bool:
    """Whether the caller's key covers `model`. LiteLLM reads `a,b` as two models, so a glob has to match each."""
    if caller.models is None or model in caller.models:
        return True
    names = (model, *map(str.strip, model.split(","))) if "," in model else (model,)
    return all(any(fnmatchcase(name, pattern) for pattern in caller.models) for name in names)
