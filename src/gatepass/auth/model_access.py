"""Access of a caller: the operations and models that a request may use, also through members of its body.

An upstream may be a gateway itself. LiteLLM, OpenRouter and others accept a fallback model, the URL of another server
or its API key as members of the body. A caller whose key covers only some models may not send them.

An upstream stores the files and the answers of all callers under one credential. They belong to the keys whose
`operations` name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from gatepass.config.access import OF_ANY_MODEL, AccessKey
from gatepass.config.model import Config
from gatepass.errors import NotAllowed
from gatepass.json_body import folded
from gatepass.json_scan import JsonScanner, any_of, may_fold, parts_with_names, string, top_members
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

STORED_RESPONSES = "stored_responses"
"""The entry of `operations` that opens the members of STORED."""
STORED = ("previous_response_id", "conversation", "prompt")
"""Members of a request for a response that name a stored object; `prompt` does with its `id`."""

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
_QUOTED_MODEL, _QUOTED_TOOLS, _NULL = b'"model"', b'"tools"', b"null"


def _normalized(name: str) -> str:
    """Return `name` in lower case and without `_` and `-`: servers in Go and TypeScript read `apiBase`."""
    return folded(name).replace("_", "").replace("-", "")


_MODELS, _DESTINATIONS, _NESTED, _PARTS = (
    frozenset(map(_normalized, names)) for names in (MODELS, DESTINATIONS, NESTED, REFUSED_PARTS)
)
_NAMES_OF_MODELS = _MODELS | {_MODEL}
_STORED = {_normalized(name): name for name in STORED}
_FAMILY = tuple(f"{name}{mark}" for name in FAMILIES for mark in "_-:")


def _is_destination(name: str) -> bool:
    return _normalized(name) in _DESTINATIONS or folded(name).startswith(_FAMILY)


def check_body_access(caller: AccessKey, body: bytes, *, names_model: bool = False) -> None:
    """Check a JSON `body` that a parser has accepted. Names match without case, `_` and `-`, and may be repeated.

    `names_model`: the object has exactly one own `model` member, without escapes. `check_model_access` checks that one.
    Raises NotAllowed if `body` names what the caller's key does not cover, and TooManySteps (see JsonScanner).
    """
    if caller.models is None:
        return
    parts = [part.lower() for part in parts_with_names(body)]
    if not any(map(may_fold, parts)) and not any(map(_ANY.search, parts)):
        # Only a tool may still name a model. Without another `"model"` than the top level's, no tool does.
        if sum(part.count(_QUOTED_MODEL) for part in parts) <= names_model:
            return
        if not any(_QUOTED_TOOLS in part for part in parts):
            return
    del parts  # as large as the body if it has no long strings
    _check_object(caller, JsonScanner(body), 0, is_top=True)


def check_part_access(caller: AccessKey, name: str) -> None:
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


def stored_member(body: bytes) -> str | None:
    """Return the member of STORED by which a request for a response names a stored object, None without one.

    Only the top level is searched. Names match without case, `_` and `-`. Raises the errors of `top_members`.
    """
    for member in top_members(body):
        name, value = _STORED.get(_normalized(member.name)), body[member.value : member.end]
        if name is None or value == _NULL:
            continue
        if name != STORED[-1]:
            return name
        if value.startswith(b"{") and any(_normalized(one.name) == "id" for one in top_members(value)):
            return f"{name}.id"
    return None


def check_stored_access(caller: AccessKey, member: str) -> None:
    """Raise NotAllowed if the key does not open stored responses, of which `member` names one."""
    if STORED_RESPONSES not in (caller.operations or ()):
        raise NotAllowed(
            "operation_not_allowed",
            f"The caller {caller.name!r} may not send {member!r}: the upstream stores the responses of all callers"
            f" under one credential. Leave it out and send the content, or {_remedy(caller, STORED_RESPONSES)}",
            param=member,
        )


def _remedy(caller: AccessKey, entry: str) -> str:
    """Return the action that opens `entry` to the caller, and closes nothing that it uses."""
    if entry in OF_ANY_MODEL and caller.models is not None:
        return "use a key without models: a batch may run any model."
    if caller.operations is not None:
        return f"add {entry!r} to access.keys[].operations."
    return (
        f"list all that the caller uses in access.keys[].operations, such as [chat, models, {entry}]."
        " Everything else is then closed."
    )


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


def _destination_not_allowed(caller: AccessKey, name: str, param: str) -> NotAllowed:
    return NotAllowed(
        "model_not_allowed",
        f"The caller {caller.name!r} may use only some models, and {name!r} may name another server or credential."
        " Leave it out.",
        param=param,
    )


def _check_models(caller: AccessKey, member: str, models: Iterator[str]) -> None:
    for model in models:
        if not may_use(caller, model):
            raise NotAllowed(
                "model_not_allowed",
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
        raise NotAllowed(
            "model_not_allowed",
            f"The caller {caller.name!r} may use only some models, and the body names another one with more than"
            f" {MAX_MODEL_CHARS} characters.",
        )
    return string(scanner.text[start:end])


def _models_of_tools(caller: AccessKey, scanner: JsonScanner, at: int) -> Iterator[str]:
    """Yield the models of each tool: the `model` of OpenAI's image_generation, those in `parameters` of OpenRouter's.

    Raises NotAllowed if a tool names a server or a credential, as OpenAI's mcp does. The schema of a function's
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
    """Raise NotAllowed if the role of the caller's key only reads pages."""
    if not caller.calls_models:
        raise NotAllowed(
            "role_not_allowed",
            f"The caller {caller.name!r} may not call models, because its key has the role {caller.role}."
            " Use a key with the role caller or admin (`gatepass keys new`).",
        )


def check_model_access(caller: AccessKey, model: str) -> None:
    """Raise NotAllowed if the caller's key does not cover `model`, and NotAllowed if it calls no model."""
    check_calls_models(caller)
    if not model and not may_use(caller, model):
        raise NotAllowed(
            "model_not_allowed", f"The caller {caller.name!r} may use only some models, and the request names none."
        )
    if not may_use(caller, model):
        raise NotAllowed(
            "model_not_allowed", f"The caller {caller.name!r} may not use the model {model!r}.", param="model"
        )


def check_operation_access(caller: AccessKey, operation: Operation) -> None:
    """Raise NotAllowed if the caller's key does not open `operation`.

    A key without `operations` opens all but those on stored objects.
    """
    entry = operation.opened_by
    if not operation.is_about_stored if caller.operations is None else entry in caller.operations:
        return
    reason = "its key does not list it"
    if caller.operations is None:
        reason = "the upstream stores the objects of all callers under one credential"
    remedy = _remedy(caller, entry)
    raise NotAllowed(
        "operation_not_allowed",
        f"The caller {caller.name!r} may not use {entry}, because {reason}. {remedy[0].upper()}{remedy[1:]}",
    )


def may_use(caller: AccessKey, model: str) -> bool:
    """Whether the caller's key covers `model`. LiteLLM reads `a,b` as two models, so a glob has to match each."""
    if caller.models is None or model in caller.models:
        return True
    names = (model, *map(str.strip, model.split(","))) if "," in model else (model,)
    return all(any(fnmatchcase(name, pattern) for pattern in caller.models) for name in names)


def may_use_server(key: AccessKey, server: str) -> bool:
    """Whether `key` may use the MCP server. A key without `mcp` may, unless it has `models` or `operations`."""
    if key.role == "viewer":
        return False
    return server in key.mcp if key.mcp is not None else key.models is None and key.operations is None


def usable_servers(key: AccessKey, config: Config) -> str:
    """Return a sentence with the paths of the MCP servers that `key` may use, after a space; "" for none."""
    paths = [f"{config.server.base_path}/mcp/{name}" for name in config.mcp if may_use_server(key, name)]
    return f" This key may use: {', '.join(paths)}." if paths else ""
