"""Rules learned from errors, on real sockets: the requests, the replies, and the number of calls."""

import asyncio
import json
import logging

import pytest

from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import HELLO, STREAMED, relaying
from tests.integration.refusing import NO_STREAM, Refusal, Refusing, no_stream, without
from tests.integration.scripted import Send, Wait, begin_stream, chunk, event, reply

EMBED = {"model": "e", "input": "hi"}


def learned_rules(gp):
    return [one.rule.entry for one in gp.state.learned_rules()]


async def test_rejected_stream_is_synthesized_and_learned(caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    options = {**STREAMED, "stream_options": {"include_usage": True}}
    async with relaying(answer=Refusing([no_stream()])) as (upstream, gp):
        answers = [await gp.ask(options).answer() for _ in range(2)]
        assert learned_rules(gp) == ["stream=synth"]
    for answer, attempts in zip(answers, ("2", None), strict=True):
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert answer.headers["x-gatepass-adapted"] == "stream=synth"
        assert answer.headers.get("x-gatepass-attempts") == attempts
        assert "x-gatepass-tried" not in answer.headers
        assert answer.events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in answer.events[:-1]]
        texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
        assert "".join(text or "" for text in texts) == "hi"
        assert chunks[-1]["usage"] == COMPLETION["usage"]
    sent = [request.json() for request in upstream.received]
    assert [body["stream"] for body in sent] == [True, False, False]
    assert ["stream_options" in body for body in sent] == [True, False, False]
    (line,) = [record for record in caplog.records if record.getMessage() == "rule_learned"]
    assert NO_STREAM in str(line.__dict__)


@pytest.mark.parametrize(
    ("members", "message", "status", "adapted"),
    [
        ({"stop": []}, "stop参数非法", 200, "drop=stop"),
        ({"temperature": 0.5}, "temperature must be １", 200, "drop=temperature"),
        ({"_": 1}, "Property '_' is not supported", 400, None),
    ],
)
async def test_an_odd_name_or_value_in_an_error_is_no_error_of_gatepass(members, message, status, adapted):
    refusal = Refusal(lambda body: not body.keys().isdisjoint(members), message)
    async with relaying(answer=Refusing([refusal])) as (_, gp):
        answer = await gp.ask({**HELLO, **members}).answer()
    assert (answer.status, answer.headers.get("x-gatepass-adapted")) == (status, adapted)
    assert status == 200 or message in answer.error["message"]


async def test_a_rule_is_stored_with_the_first_event_of_a_stream():
    """A stream that breaks later has shown that the upstream accepts the change."""
    goes_on, refusal = asyncio.Event(), without("store")
    talk = [Send(chunk(EVENTS[0])), Wait(goes_on), *(Send(chunk(one)) for one in EVENTS[1:]), Send(b"0\r\n\r\n")]

    def answer(request):
        return refusal.dialogue if "store" in request.json() else [*begin_stream(), *talk]

    async with relaying(answer=answer) as (_, gp), gp.ask({**STREAMED, "store": True}) as ask:
        await ask.head()
        while b"hi" not in ask.body:
            await ask.piece()
        assert learned_rules(gp) == ["drop=store"]
        goes_on.set()


NO_DIMENSIONS = (
    'Model "e" does not support matryoshka representation, changing output dimensions will lead to poor results.'
)


@pytest.mark.parametrize(("wanted", "status"), [(2, 200), (3, 400)])
async def test_dimensions_are_dropped_only_if_the_vectors_have_that_length(wanted, status):
    refusal = Refusal(lambda body: "dimensions" in body, NO_DIMENSIONS)

    def answer(request):
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(VECTORS))]

    async with relaying(answer=answer) as (upstream, gp):
        found = await gp.ask({**EMBED, "dimensions": wanted}, "/v1/embeddings").answer()
        learned = learned_rules(gp)
    assert (found.status, len(upstream.received)) == (status, 2)
    if status == 200:
        assert (found.json()["data"], learned) == (VECTORS["data"], ["drop=dimensions"])
        return
    assert found.error["message"].startswith(f"{NO_DIMENSIONS} Tried before: `drop=dimensions`.")
    assert (found.headers["x-gatepass-tried"], learned) == ("drop=dimensions", [])


@pytest.mark.parametrize(("declared", "statuses"), [(2, [200, 200, 200]), (3, [502, 502, 502])])
async def test_a_null_names_no_dimensions_so_that_the_declared_length_holds(declared, statuses):
    """The refusal of the null was the client's error, and the wrong length was not named."""
    refusal = Refusal(lambda body: "dimensions" in body, NO_DIMENSIONS)

    def answer(request):
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(VECTORS))]

    models = {"*": {"upstream": "chat", "capabilities": {"dimensions": declared}}}
    async with relaying(answer=answer, models=models) as (_, gp):
        bodies = ({**EMBED, "dimensions": None}, {**EMBED, "dimensions": None}, EMBED)
        found = [await gp.ask(body, "/v1/embeddings").answer() for body in bodies]
        with_length = await gp.ask({**EMBED, "dimensions": 2}, "/v1/embeddings").answer()
        after_a_drop = await gp.ask({**EMBED, "dimensions": None}, "/v1/embeddings").answer()
    assert [one.status for one in found] == statuses
    assert (with_length.status, after_a_drop.status) == (200, statuses[0])
    for one in (*found, after_a_drop):
        assert one.status == 200 or "models.*.capabilities.dimensions declares 3" in one.error["message"]


NO_MODEL = {"error": {"message": "The model `nope` does not exist", "code": None}}
MEMORY = {"error": {"message": "CUDA out of memory"}}


@pytest.mark.parametrize(
    ("member", "status", "error", "text"),
    [
        (
            "logit_bias",
            404,
            NO_MODEL,
            "The model `nope` does not exist. gatepass sent the client's model name 'nope' un",
        ),
        ("reasoning_effort", 404, NO_MODEL, "The model `nope` does not exist. gatepass sent"),
        ("parallel_tool_calls", 500, MEMORY, "CUDA out of memory"),
        ("do_sample", 500, MEMORY, "CUDA out of memory"),
    ],
)
async def test_an_error_that_follows_a_change_is_read_as_any_first_one_is(member, status, error, text):
    refusal = without(member)

    def answer(request):
        return refusal.dialogue if member in request.json() else [Send(reply(error, status))]

    values = {"logit_bias": {"1": 1}, "reasoning_effort": "high"}
    async with relaying(answer=answer) as (upstream, gp):
        found = await gp.ask({**HELLO, "model": "nope", member: values.get(member, True)}).answer()
    assert (found.status, len(upstream.received)) == (status, 2)
    assert found.error["message"].startswith(f"With `drop={member}`: {text}")
    assert found.headers["x-gatepass-adapted"] == found.headers["x-gatepass-tried"] == f"drop={member}"


@pytest.mark.parametrize(
    "end",
    [
        [Send(chunk(event({"error": {"message": "CUDA error", "code": 500}})))],
        [Send(chunk(b"data: {nothing}\n\n"))],
        [Send(b"0\r\n\r\n")],
    ],
)
async def test_a_stream_that_breaks_after_it_was_asked_for_tells_its_own_end(end):
    only = Refusal(lambda body: not body.get("stream"), "This model only supports stream mode.", "stream")

    def answer(request):
        talk = [*begin_stream(), Send(chunk(EVENTS[0])), *end]
        return only.dialogue if only.concerns(request.json()) else talk

    async with relaying(answer=answer) as (_, gp):
        found = await gp.ask(HELLO).answer()
        learned = learned_rules(gp)
    assert (found.status // 100, found.headers["x-gatepass-adapted"]) == (5, "stream=aggregate")
    assert found.error["message"].startswith("With `stream=aggregate`: ")
    assert "Tried before" not in found.error["message"]
    assert learned == ["stream=aggregate"]


async def test_an_unchanged_error_has_no_change_of_a_try_that_failed():
    first = Refusal(lambda body: True, "seed and top_p are not for you")
    async with relaying(answer=Refusing([first])) as (_, gp):
        found = await gp.ask({**HELLO, "seed": 1, "top_p": 0.5}).answer()
    assert found.error["message"].startswith(f"{first.message}. Tried before: `drop=seed")
    assert "x-gatepass-adapted" not in found.headers
    assert found.headers["x-gatepass-tried"].startswith("drop=seed")


UNKNOWN_CODES = (1, -1, 1001, 5001, 20015, 30001, "E7")


@pytest.mark.parametrize("code", UNKNOWN_CODES)
@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("do_sample", True, "Unsupported parameter: do_sample"),
        ("top_k", 4, "the field `top_k` is not supported here"),
        ("frequency_penalty", 0.7, "不支持的参数: frequency_penalty"),
        ("parallel_tool_calls", True, "parallel_tool_calls is meaningless for this model, remove it"),
        ("temperature", 0.5, "该接口尚未支持 temperature 字段"),
        ("verbosity", "low", "verbosity should be left out here"),
        ("logit_bias", {"1": 1}, "Failed to parse the request: unexpected field `logit_bias`"),
        ("top_p", 0.5, "参数 top_p 无效"),
        ("presence_penalty", 1, "参数校验失败：presence_penalty 取值必须为 0"),
    ],
)
async def test_a_member_that_is_refused_in_a_200_is_learned_as_from_a_400(code, member, value, words):
    def answer(request):
        refused = reply({"code": code, "message": words, "data": None})
        return [Send(refused if member in request.json() else reply(COMPLETION))]

    async with relaying(answer=answer) as (upstream, gp):
        found = await gp.ask({**HELLO, member: value}).answer()
        learned = learned_rules(gp)
    assert (found.status, len(upstream.received), learned) == (200, 2, [f"drop={member}"])


@pytest.mark.parametrize(
    ("members", "words", "status"),
    [
        ({"stop": ["x"]}, "stop: at most 0 sequences are allowed, this is invalid", 400),
        ({"n": 2}, "The parameter `n` must be 1", 400),
        ({"messages": [{"role": "user", "content": "hi", "name": "x"}]}, "messages[0].name is not allowed by us", 400),
        # no member of the request, an everyday word, or no refusal
        ({"seed": 1}, "Invalid answer of the worker `top_p`", 502),
        ({"user": "u"}, "The user database must be started first", 502),
        ({"tools": []}, "No tools for that", 502),
        ({"seed": 1}, "Internal error while `seed` was read", 502),
        ({"seed": 1}, "系统异常，seed 未处理", 502),
        ({"temperature": 1}, "temperature: the worker timed out", 502),
        ({"seed": 1}, 'Unsupported text: "seed is not supported, is it?"', 502),
        ({}, "Invalid reply from model: no model", 502),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_in_a_200_is_the_clients_only_if_it_refuses_a_member_that_was_sent(
    members, words, status, is_stream
):
    failed = {"code": 5001, "message": words}
    talk = [*begin_stream(), Send(chunk(event({"error": failed}))), Send(b"0\r\n\r\n")]
    async with relaying(answer=lambda _: talk if is_stream else [Send(reply(failed))]) as (_, gp):
        found = await gp.ask({**HELLO, **members, "stream": is_stream}).answer()
    assert (found.status, found.error["code"]) == (status, "5001")
    assert found.error["message"].startswith(words)


ONLY_NAMED = (
    "Model is loading, stream will start soon",
    "GPU temperature too high",
    "敏感内容 temperature",
    "metadata service unreachable",
    "metadata lookup failed",
    "seed node not found",
    "thinking process crashed",
    "store write failed",
    "reasoning engine failed",
    "logprobs computation failed",
    "tools service is down",
    "could not reach tools server",
    "temperature limit of GPU exceeded",
    "model is loading, retry",
    "n is exhausted",
    "max_tokens per minute quota reached",
    "Rate of max_tokens per minute reached",
    "stop",
    "verbosity",
    "service_tier flex has no capacity",
    "Your quota of max_tokens is used up",
    "stream broken pipe",
    "EOF while reading stream",
    "stream closed by peer",
    "user joe is out of credit",
    "the seed phrase is wrong",
    "top_p kernel launch failed",
    "failed to load top_p kernel: cuda error",
    "NCCL error in all_reduce while sampling top_p",
    "tool_choice parser exited",
    "KeyError: 'tools'",
    "KeyError: 'usage'",
    "worker 'seed' is dead",
    "AttributeError: 'NoneType' object has no attribute 'temperature'",
    "Traceback: File sampling.py in forward temperature = x",
    "role assumption failed for content bucket",
    "engine failed in messages[].content",
    "No available channel for model under group default (metadata)",
    "user group default has no channel",
    "insufficient user quota: temperature",
    'Failed to answer "what does 参数错误 mean"',
    "Error: hi there tools",
    "worker crashed in messages",
    "the model field was not found in our registry",
    "Database connection failed for stream",
    "could not read the messages of user",
    "failed to generate: stop",
    "the user has no balance",
    "Your session is over. Please stop.",
    "temperature sensor failed: GPU 3 temperature exceeded 90C",
    "Node failure: please retry with the same messages.",
    "stream interrupted by upstream node",
    "stream error: worker 3 exited",
    "user not authorized",
    "user quota exceeded",
    "Invalid user",
    "The content of messages triggers the safety policy",
    "Illegal metadata; user blocked by policy",
    "Unknown error in top_p",
    "Unexpected end of stream: seed",
    "Invalid response from worker for logprobs",
    "CUDA error: an illegal memory access in top_p",
    "TypeError: unsupported operand type(s): 'NoneType' and 'int' (max_tokens)",
    "list index out of range while temperature was applied",
    "max_tokens exceeds the limit of 9000 tokens per minute",
    "Only 2 of 8 replicas serve `seed`",
    "max_tokens is not allowed beyond your remaining credits",
    "The `stream` should resume shortly",
    "服务繁忙，temperature 请求必须稍后重试",
    "seed 必须等待模型加载",
    "max_tokens 超过每分钟限额",
    "显存不足，max_tokens 无效",
    "seed 暂时不可用",
    "未知错误 temperature",
    "logprobs is disabled due to heavy traffic",
    "temperature drifts more than expected",
    "This should never happen: seed",
    "Extra data while top_p was parsed",
    "seed cannot be reached",
    "Unknown host 'seed'",
)
"""Errors of a server, of capacity, of an account or of a filter, which name a member and do not refuse it."""
SENT = dict(HELLO) | {
    "temperature": 0.3,
    "user": "joe",
    "stop": ["x"],
    "metadata": {"a": "b"},
    "seed": 5,
    "store": True,
}
SENT |= {"n": 1, "thinking": {"type": "enabled"}, "reasoning_effort": "high", "logprobs": True, "top_p": 0.9}
SENT |= {"max_tokens": 99, "verbosity": "low", "service_tier": "flex", "tool_choice": "auto", "stream": False}
SENT |= {"tools": [{"type": "function", "function": {"name": "f"}}]}


async def test_an_error_in_a_200_that_only_names_a_member_stays_the_servers():
    said = iter(ONLY_NAMED)
    async with relaying(answer=lambda _: [Send(reply({"code": 5001, "message": next(said, "none left")}))]) as (
        upstream,
        gp,
    ):
        found = {words: (await gp.ask(SENT).answer()).status for words in ONLY_NAMED}
    assert (found, len(upstream.received)) == (dict.fromkeys(ONLY_NAMED, 502), len(ONLY_NAMED))


async def test_a_context_that_is_full_in_a_200_is_told_as_a_400():
    full = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    async with relaying([Send(reply({"code": 20042, "message": full}))]) as (upstream, gp):
        found = await gp.ask({**HELLO, "seed": 1}).answer()
    assert (found.status, found.error["type"], len(upstream.received)) == (400, "invalid_request_error", 1)


LEAST = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead."


async def test_a_check_with_five_tokens_is_raised_shown_and_learned_and_other_requests_stay():
    refusing = Refusing([Refusal(lambda body: body.get("max_tokens", 99) < 16, LEAST, "max_output_tokens")])
    async with relaying(answer=refusing) as (upstream, gp):
        answers = [await gp.ask({**HELLO, "max_tokens": tokens}).answer() for tokens in (5, 5, 500)]
        assert sorted(learned_rules(gp)) == ["clamp=max_completion_tokens", "clamp=max_tokens"]
    assert [one.status for one in answers] == [200] * 3
    assert [one.headers.get("x-gatepass-adapted") for one in answers] == ["clamp=max_tokens", "clamp=max_tokens", None]
    assert [one.json()["max_tokens"] for one in upstream.received] == [5, 16, 16, 500]


BOUND = {"upstream": "chat", "rules": {"max_output_tokens": 8}}
CLAMP = {"upstream": "chat", "rules": {"clamp": {"max_tokens": {"max": 8}}}}
BOUNDED = [{"models": {"*": BOUND}}, {"models": {"*": CLAMP}}, {"operations": {"chat": BOUND}}]


@pytest.mark.parametrize("blocks", [*BOUNDED, {"operations": {"chat": CLAMP}}])
async def test_an_operators_smaller_bound_keeps_the_refusal_after_one_call(blocks):
    refusing = Refusing([Refusal(lambda body: body["max_tokens"] < 16, LEAST, "max_output_tokens")])
    async with relaying(answer=refusing, **blocks) as (upstream, gp):
        answer = await gp.ask({**HELLO, "max_tokens": 5}).answer()
    assert (answer.status, len(upstream.received)) == (400, 1)


async def test_a_limit_that_was_too_small_without_a_number_has_an_advice():
    text = "Could not finish the message because max_tokens or model output limit was reached. Try a higher max_tokens."
    async with relaying(answer=Refusing([Refusal(lambda body: True, text)])) as (upstream, gp):
        answer = await gp.ask({**HELLO, "max_tokens": 5}).answer()
    assert (answer.status, len(upstream.received)) == (400, 1)
    assert "{clamp: {NAME: {min: 1024}}}" in answer.error["message"]


CUT = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"city": "Par'}}
TURN = {**HELLO, "messages": [*HELLO["messages"], {"role": "assistant", "tool_calls": [CUT]}]}
PARSING = "Failed to parse tool call arguments as JSON: parse error at line 1, column 14"


@pytest.mark.parametrize(
    ("body", "text", "calls", "final"),
    [(TURN, PARSING, 2, "false"), (HELLO, PARSING, 1, None), (TURN, "Internal error", 1, None)],
)
async def test_a_500_about_the_history_is_final_if_no_change_helps(body, text, calls, final):
    failing = [Send(reply({"error": {"message": text, "type": "server_error"}}, 500))]
    async with relaying(answer=lambda _: failing) as (upstream, gp):
        answer = await gp.ask(body).answer()
    assert (answer.status, len(upstream.received)) == (500, calls)
    assert answer.headers.get("x-should-retry") == final
