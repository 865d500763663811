"""judge: what an upstream's reply really is, before a byte of it reaches the client."""

from __future__ import annotations

from collections.abc import Awaitable

from gatepass.attempt import refused
from gatepass.call import Response, Surface
from gatepass.context import Attempt
from gatepass.error_body import is_error
from gatepass.errors import UpstreamError
from gatepass.upstream import form
from gatepass.upstream.rejection import named
from gatepass.verdict.answer import Answer, Passed
from gatepass.verdict.beginning import begin
from gatepass.verdict.case import Case
from gatepass.verdict.holding import gather, hold, says_stream
from gatepass.verdict.unlabelled import pass_unlabelled

OK = 200


async def judge(attempt: Attempt, response: Response) -> Answer:
    """Turn a reply into what the client's own call asked for; raises the error that it really is, and closes it then.

    A stream where none was asked for becomes one reply, a whole reply where a stream was becomes a stream.
    """
    hop = attempt.hop
    case = Case(attempt.gate, attempt.call, hop, response, attempt, attempt.profile)
    try:
        if response.status != OK:
            await _check(case)
        return await _answer(case)
    except UpstreamError as error:
        await response.aclose()
        raise named(error, hop.settings.rejection) from error.__cause__
    except BaseException:  # a client that leaves meanwhile comes as a cancellation
        await response.aclose()
        raise


async def _check(case: Case) -> None:
    """Raises the error that a status tells of."""
    hop, response = case.hop, case.response
    error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)
    if error is None and is_error(response.status):
        error = await refused(case.attempt, response)
    if error is not None:
        raise error


def _answer(case: Case) -> Awaitable[Answer]:
    """Reads it in the way that the call and the reply's content type ask for."""
    if case.may_stream:
        return begin(case) if case.call.stream else gather(case) if says_stream(case) else hold(case)
    return _pass(case) if case.call.operation.surface is Surface.RAW else hold(case)


async def _pass(case: Case) -> Answer:
    """JSON is held and judged, a page is an error, events are watched; whatever else passes as it comes."""
    kind = form.content_type(case.response.headers)
    if case.call.operation.is_download and kind != "text/html":
        return Passed(case.hop, case.response)
    if not kind:
        return await pass_unlabelled(case)
    if kind == "text/html" or kind.endswith("json"):
        return await hold(case)
    return await begin(case) if kind == "text/event-stream" else Passed(case.hop, case.response)
