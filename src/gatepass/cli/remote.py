"""`gatepass doctor --url`: test a running gatepass as a client sees it, with a base URL and a key alone.

The running gatepass is the upstream of a configuration of its own. Its errors name the hop that failed behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec

from gatepass.cli import probe
from gatepass.cli.options import CALL_OPERATIONS, open_state, operation_by_name
from gatepass.cli.reach import Begin, Server, Step, StepOutcome, Steps, at_tls_port, reach
from gatepass.cli.steps import calls_of
from gatepass.config.model import Config
from gatepass.dialects.error_body import read_error_body
from gatepass.errors import GatepassError, OperationNotAllowed, TransportFault, UpstreamErrorReply, UpstreamTimeout
from gatepass.http_client.fault_text import ServerNames, host_of
from gatepass.http_client.response_body import read_whole
from gatepass.normalize.profiles import untyped
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.models import parse_list, request_list
from gatepass.proxy.upstream_call import upstream_error
from gatepass.types import OutboundRequest, Timeouts

HOP = "gatepass"
CALL_S = 60.0
PAGE_BYTES = 64 * 1024
ADVICE_WORDS = {
    f"upstreams.{HOP}.base_url": "--url",
    "network.ca_file": "the variable SSL_CERT_FILE",
    "--url.network.client_cert": "a client certificate",
    "network.proxy": "a proxy",
}
"""What a client's machine has in place of settings. OpenSSL reads the variable."""


async def diagnose_url(
    base_url: str, key: str | None, begin: Begin, model: str | None, operation: str | None, *, call: bool
) -> Steps:
    """Yield the steps to a running gatepass: the network, its pages, its model list and with `call` real calls."""
    server = Server(HOP, base_url, ServerNames(host_of(base_url), "--url", "--url"))
    yield _as_client(step := await reach(server, begin=begin))
    if step.failed:
        return
    own: dict[str, Any] = {"base_url": base_url, "learn": "off", "allow_plain_http": True}
    blocks: dict[str, Any] = {"upstreams": {HOP: own}}
    if key is not None:
        own["credential"] = HOP
        blocks["credentials"] = {HOP: {"type": "static", "token": key}}
    async with open_state(Config.model_validate(blocks)) as state:
        upstream = state.upstreams[HOP]
        for name in state.holders:
            state.holders[name].start()
        for page in ("/healthz", "/readyz"):
            begin(HOP, page)
            step = await _page_step(state, upstream, page)
            step = await at_tls_port(server, step) or step
            yield step
            # without /healthz it is not a gatepass; without /readyz its model list still shows why
            if step.failed and page == "/healthz":
                return
        begin(HOP, "models")
        step, listed = await _list_step(state, upstream, model, is_called=call)
        yield step
        if not call:
            return
        # a chat: most gateways support it, and its answer is short
        chosen = model or next((name for name in listed if operation_by_name(name) == "chat"), None)
        if chosen is None:
            advice = "Name one: gatepass doctor MODEL --url URL --call."
            yield Step(HOP, "call", StepOutcome.SKIPPED, "no model to call", advice)
            return
        by_name = operation_by_name(chosen)
        operation = operation or (by_name if by_name in CALL_OPERATIONS else "chat")
        said: dict[str, str] = {}
        for probe_call in calls_of(state.config, chosen, operation, None):
            what = "stream" if probe_call.stream else "call"
            begin(HOP, what)
            (sent,) = probe.probes_of(state, upstream, probe_call)
            try:
                result = await probe.within(state, upstream, probe.real_call(state, sent), CALL_S)
                yield Step(HOP, what, StepOutcome.WORKS, f"{sent.what}: {result}")
            except UpstreamTimeout as error:
                why = probe.split_advice(error.message)[0].removesuffix(".")
                why = f"{sent.what}: {probe.arrived(state, sent, error)}{why}: it, or the upstream, is silent"
                yield Step(HOP, what, StepOutcome.FAILS, why, f"Run `gatepass doctor {chosen} --call` where it runs.")
                return  # the stream would wait as long
            except GatepassError as error:
                yield probe.said_once(_failed(what, error, f"{sent.what}: "), said, sent.what)


async def _page_step(state: AppState, upstream: Upstream, page: str) -> Step:
    """Request a page at the base URL without `/for/PROFILE` and `/v1`."""
    url = upstream.settings.base_url.rstrip("/").removesuffix("/v1").partition("/for/")[0] + page
    try:
        status, body = await probe.within(state, upstream, _get(state, upstream, url))
    except GatepassError as error:
        return replace(_failed(page, error), proves=False)
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        document = None
    error_body = read_error_body(document, refused=True, mask=state.redactor.mask)
    why = f"GET {page}: {status}: {body[:200].decode(errors='replace') if error_body is None else error_body.message}"
    if page == "/healthz" and (status != HTTPStatus.OK or not isinstance(document, dict) or "status" not in document):
        why = f"GET {page}: it is not a page of gatepass" if status == HTTPStatus.OK else why
        advice = "Check --url: the base URL of gatepass, such as https://gatepass.corp.example/v1."
        return Step(HOP, page, StepOutcome.FAILS, state.redactor.mask(why), advice, proves=False)
    if status != HTTPStatus.OK:
        advice = "No upstream has a usable token. Run `gatepass doctor` where gatepass runs, or read its /status."
        return Step(HOP, page, StepOutcome.FAILS, state.redactor.mask(why), advice, proves=False)
    works = "gatepass is alive" if page == "/healthz" else "an upstream has a usable token"
    return Step(HOP, page, StepOutcome.WORKS, works, proves=False)


async def _get(state: AppState, upstream: Upstream, url: str) -> tuple[int, bytes]:
    try:
        response = await upstream.transport.send(OutboundRequest("GET", url, timeouts=upstream.timeouts))
        try:
            return response.status, await read_whole(response, PAGE_BYTES)
        finally:
            await response.aclose()
    except TransportFault as fault:
        raise upstream_error(fault, HOP, url, Timeouts(), state.redactor.mask) from fault


async def _list_step(
    state: AppState, upstream: Upstream, model: str | None, *, is_called: bool
) -> tuple[Step, list[str]]:
    """Return the step of the model list and its names, as users type them: RAGFlow's list has suffixes."""
    try:
        reply = await probe.within(state, upstream, request_list(state, upstream))
        listed = [untyped(str(entry["id"])) for entry in parse_list(upstream, reply.body)]
    except GatepassError as error:
        step = _failed("models", error)
        if isinstance(error, UpstreamErrorReply) and error.upstream_code == OperationNotAllowed.code:
            step = replace(step, outcome=StepOutcome.UNPROVEN)  # the key is accepted, and need not list the models
        elif error.http_status == HTTPStatus.UNAUTHORIZED:
            step = replace(step, advice="Set GATEPASS_KEY to a key that `gatepass keys new` printed.")
        return step, []
    if model and untyped(model) not in listed:
        outcome, more = (StepOutcome.UNPROVEN, "") if is_called else (StepOutcome.FAILS, probe.UNLISTED)
        return Step(HOP, "models", outcome, probe.no_model(model, listed), probe.WRONG_NAME + more), listed
    count = "1 model" if len(listed) == 1 else f"{len(listed)} models"
    accepted = "no key was required" if upstream.holder is None else "the key is accepted"
    return Step(HOP, "models", StepOutcome.WORKS, f"{count}, and {accepted}"), listed


def _failed(what: str, error: GatepassError, prefix: str = "") -> Step:
    """Return the step of an error, at the hop that the running gatepass names."""
    own: Mapping[str, Any] = {}
    message = error.message
    if isinstance(error, UpstreamErrorReply):
        own = error.raw if isinstance(error.raw, dict) else {}
        prefix += f"{error.http_status}: "
        message = message if error.error_body is None else error.error_body.message  # without advice about settings
    why, advice = probe.split_advice(message)
    named = f"{error.http_status} {error.public_code}: {why}"
    return _as_client(Step(str(own.get("hop") or HOP), what, StepOutcome.FAILS, prefix + why, advice, error=named))


def _as_client(step: Step) -> Step:
    why, advice = step.why, step.advice
    for setting, text in ADVICE_WORDS.items():
        why, advice = why.replace(setting, text), advice.replace(setting, text)
    return replace(step, why=why, advice=advice)
