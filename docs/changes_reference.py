"""Write the tables of the entries of `x-gatepass-adapted`. tests/docs/test_adaptations.py compares it with the code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from docs.entries import table

from gatepass.config.routes import LEARN_ALSO
from gatepass.learning.learned_rule import SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.betas import ENABLED

ALWAYS, NO = "no; gatepass always makes this change", "no; only by configuration"
BY_PROFILE = "no; by a [profile](reference/configuration.md#profilesname)"
BY_DIALECT = "no; by the dialect [`ragflow`](guides/ragflow_upstream.md)"


@dataclass(frozen=True)
class Change:
    purpose: str
    example: str
    learned: str = "yes"
    setting: str = ""
    """The setting that makes the change without an error."""


def rules(name: str) -> str:
    return f"[`rules.{name}`](reference/configuration.md#rules{name})"


REQUESTS: Mapping[str, Change] = {
    "drop=PLACE": Change(
        "Members were left out. `drop_params` and `model_type` are always left out.",
        "drop=seed",
        "yes, if the answer without the member still answers the same question; others by `learn_also`",
        rules("drop"),
    ),
    "drop_beta=BETA": Change(
        "Values of the header `anthropic-beta` were left out, and the members that only they enable. Several are joined"
        " with `+`.",
        "drop_beta=context-management-2025-06-27",
        "yes",
        rules("drop_betas"),
    ),
    "drop=replayed": Change(
        "Assistant messages lost members that only a reply has.", "drop=replayed", NO, rules("replayed")
    ),
    "rename=OLD>NEW": Change(
        "A member was sent under another name.",
        "rename=max_tokens>max_completion_tokens",
        "`max_tokens` and `max_completion_tokens`, in both directions",
        rules("rename"),
    ),
    "set=PLACE": Change(
        "A member got another value. A learned entry also contains the value: `set=PLACE>VALUE`.",
        "set=encoding_format>float",
        "`enable_thinking`, `encoding_format`",
        rules("set"),
    ),
    "default=PLACE": Change(
        "A member was added. `default=model` is the model of a request that names none.",
        "default=max_tokens",
        NO,
        f"{rules('default')}; `operations.NAME.model` for the model",
    ),
    "clamp=PLACE": Change(
        "A number was moved into its bounds.",
        "clamp=max_tokens",
        "`max_tokens` for one request, with `learn_also`",
        rules("clamp"),
    ),
    "role=OLD>NEW": Change(
        "A role of messages was replaced.",
        "role=developer>system",
        "yes; `system>user` with `learn_also: [system_into_user]`",
        rules("roles"),
    ),
    "roles=merged": Change(
        "Adjacent messages of one role were joined.",
        "roles=merged",
        "with `learn_also: [merge_roles]`",
        rules("merge_roles"),
    ),
    "content=text": Change("Lists of text parts became strings.", "content=text", setting=rules("text_content")),
    "content=empty": Change('`null` as the content became `""`.', "content=empty", setting=rules("empty_content")),
    "tool_ids=short": Change("Tool call ids got Mistral's form.", "tool_ids=short", setting=rules("short_tool_ids")),
    "stream=synth": Change(
        "gatepass requested a whole reply and made a stream of it.", "stream=synth", setting="`models.NAME.stream`"
    ),
    "stream=aggregate": Change(
        "gatepass requested a stream and made a whole reply of it.", "stream=aggregate", setting="`models.NAME.stream`"
    ),
    "split=N": Change(
        "The inputs were sent in several requests of N inputs each. A learned entry can have a share of the inputs"
        " instead: `split=N%`, for one request.",
        "split=64",
        setting=rules("split"),
    ),
    "response_format=json_object": Change(
        "The schema of the answer was moved into the system message.",
        "response_format=json_object",
        "with `learn_also: [response_format]`",
        rules("schema_in_words"),
    ),
    "images=N": Change("N images of the member `images` were moved into the messages.", "images=2", ALWAYS),
    "rerank=SHAPE": Change("A rerank request was converted to `rerank_shape` of the upstream.", "rerank=tei", ALWAYS),
    "model=untyped": Change(
        "RAGFlow's suffix of the type was removed from the model's name.", "model=untyped", BY_PROFILE
    ),
    "tools=plain": Change(
        "Entries of `tools` lost members other than `type` and `function`.", "tools=plain", BY_PROFILE
    ),
    "translate=API": Change(
        "A response or a message was served by a chat: [translation](concepts/translation.md).",
        "translate=messages",
        "for a missing path of the upstream",
        "[`protocols`](reference/configuration.md#upstreamsnameprotocols)",
    ),
    "untranslated=NAME": Change(
        "The chat lacks a member or a tool of the translated request, or the reply one of the chat's answer."
        " Unusual names are `others`.",
        "untranslated=thinking",
        "with `translate`",
    ),
    "extra_body=NAMES": Change("These members were moved into `extra_body`.", "extra_body=reference", BY_DIALECT),
}
REPLIES: Mapping[str, Change] = {
    "unwrap=data": Change('The answer was taken out of an envelope `{"code": 0, "data": {…}}`.', "unwrap=data", ALWAYS),
    "reply=unchecked": Change(
        "A reply above 16 MiB or 2,000,000 commas and brackets was relayed unchecked and unchanged.",
        "reply=unchecked",
        ALWAYS,
    ),
    "embeddings=order": Change("Vectors in another order than the inputs were sorted.", "embeddings=order", ALWAYS),
    "embeddings=index": Change("A missing or wrong `index` of a vector was corrected.", "embeddings=index", ALWAYS),
    "ragflow=NAME": Change("The dialect `ragflow` changed the answer.", "ragflow=id", BY_DIALECT),
    "repair=wrapped": Change("Chunks were taken out of an envelope.", "repair=wrapped", ALWAYS),
    "repair=envelope": Change("A missing `id`, `object`, `created` or `model` was added.", "repair=envelope", ALWAYS),
    "repair=message": Change("A `message` or a whole answer became deltas.", "repair=message", ALWAYS),
    "repair=delta": Change(
        "A missing or null `delta` became an empty one, and a first one with only a role got a text.",
        "repair=delta",
        ALWAYS,
    ),
    "repair=choices": Change(
        "Chunks without choices were joined with the next one or left out.",
        "repair=choices",
        ALWAYS,
    ),
    "repair=empty-choice": Change("Chunks without choices got an empty one.", "repair=empty-choice", BY_PROFILE),
    "repair=index": Change("A missing `index` of a choice was added.", "repair=index", ALWAYS),
    "repair=role": Change("A repeated, empty or missing role became one role.", "repair=role", ALWAYS),
    "repair=finish": Change(
        "A finish reason became one of OpenAI's. `native_finish_reason` keeps a vendor's own.\n\n"
        "`max_tokens`, `model_length`, `abort` and `error` become `length`. `SAFETY` and similar ones become"
        " `content_filter`. `eos`, `end_turn` and similar ones become `stop`. An empty one becomes null, and `stop`"
        " after tool calls becomes `tool_calls`. An unknown one stays.",
        "repair=finish",
        ALWAYS,
    ),
    "repair=added-finish": Change(
        "`[DONE]` arrived before a finish reason: a choice with content got `stop`, or `tool_calls` if the arguments of"
        " all its calls are complete JSON.",
        "repair=added-finish",
        ALWAYS,
    ),
    "repair=usage": Change(
        "Repeated token counts of a stream became one. In a whole reply, a null count became 0 or the sum. A profile"
        " can make them whole numbers.",
        "repair=usage",
        ALWAYS,
    ),
    "repair=tool-index": Change(
        "A missing or wrong `index` of a tool call was corrected.", "repair=tool-index", ALWAYS
    ),
    "repair=tool-id": Change(
        "A missing `id` of a tool call was added, or a repeated one removed.", "repair=tool-id", ALWAYS
    ),
    "repair=tool-name": Change("A repeated name of a tool call was removed.", "repair=tool-name", ALWAYS),
    "repair=tool-type": Change("A missing `type` of a tool call was added.", "repair=tool-type", ALWAYS),
    "repair=tool-arguments": Change("The arguments of a tool call became a text.", "repair=tool-arguments", ALWAYS),
    "repair=split": Change("A finish reason was moved into its own chunk.", "repair=split", BY_PROFILE),
    "repair=line": Change("A long chunk was split.", "repair=line", BY_PROFILE),
    "repair=cumulative": Change(
        "An event repeated all text so far, and was cut to the new text.",
        "repair=cumulative",
        NO,
        "`upstreams.NAME.repair.cumulative`",
    ),
    "repair=message-usage": Change(
        "`input_tokens` and `output_tokens` of a message that lacks them became 0.", "repair=message-usage", ALWAYS
    ),
    "repair=stop-reason": Change(
        "A message without `stop_reason` got `tool_use` or `end_turn`.", "repair=stop-reason", ALWAYS
    ),
    "sse=event-name": Change(
        "An event of the Messages API got the line `event:` that it lacked.", "sse=event-name", ALWAYS
    ),
    "sse=done": Change("`[DONE]` was added to a complete stream.", "sse=done", ALWAYS),
    "sse=unchecked": Change(
        "An event above 1 MiB was relayed unchanged. Only its short members were read.",
        "sse=unchecked",
        ALWAYS,
    ),
    "sse=last-event": Change("The blank line after the last event was added.", "sse=last-event", ALWAYS),
    "sse=bom": Change("A byte order mark was removed.", "sse=bom", ALWAYS),
    "sse=empty-data": Change("Events without data were removed.", "sse=empty-data", ALWAYS),
    "sse=id-comments": Change(
        "A blank line after comments was removed, because SDKs misread it.", "sse=id-comments", ALWAYS
    ),
    "sse=comments": Change("All comments were removed.", "sse=comments", BY_PROFILE),
    "sse=no-chunk": Change("Events that are neither chunks nor errors were removed.", "sse=no-chunk", BY_PROFILE),
    "sse=numbers": Change("The `sequence_number` of events after a keep-alive was raised.", "sse=numbers", ALWAYS),
    "sse=plain": Change("Events got the plainest form: `data: …` with line feeds.", "sse=plain", BY_PROFILE),
}


def changes() -> str:
    """Return the section of docs/adaptations.md."""
    return f"""Learned: whether gatepass makes the change after an error of the upstream. `learn_also` is
[`upstreams.NAME.learn_also`](reference/configuration.md#upstreamsnamelearn_also). Setting: what makes the change
without such an error. `PLACE`, `OLD` and `NEW` are paths of members, `N` is a number.

### Changes of a request

{table(HEAD, map(row, REQUESTS, REQUESTS.values()))}

### Members that gatepass learns to leave out

- Members of a request: {listed(SAFE)}, and `dimensions` of embeddings
- Members of messages: {listed(name.removeprefix("messages[].") for name in SAFE_IN_MESSAGES)}
- Members of tools: {listed(name.removeprefix("tools[].") for name in SAFE_IN_TOOLS)}
- Members of `/v1/messages`: {listed(ENABLED)}, and an `output_config` with no other members
- With `learn_also`: {listed(LEARN_ALSO)}, and members that gatepass does not know, such as
  `tools[].function.vendor_hint`

### Changes of a reply

{table(HEAD, map(row, REPLIES, REPLIES.values()))}"""


HEAD = ("entry", "what changed", "learned", "setting", "example")


def row(name: str, change: Change) -> tuple[str, str, str, str, str]:
    return f"`{name}`", change.purpose, change.learned, change.setting or "–", f"`{change.example}`"


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
