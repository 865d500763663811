"""Rule "model": the upstream's name of the model in the place of the public one; and one for bodies that name none."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from gatepass.call import Call, Target
from gatepass.jsontext import Walk, replace_value

ADDED = "default=model"
"""What `x-gatepass-adapted` calls a model that was put into a body or a form, as it calls what `rules.default` adds."""

_MODEL = b'"model"'
_AT_ITS_END = re.compile(rb"[ \t\n\r]*\}")


class ModelName:
    """Sends `target.model` where a route names one. Only that value's span changes.

    The Call keeps the public name in `model`, and `x-gatepass-adapted` shows no entry: the name is
    what the operator's route says, not a repair of what the client sent. A body that names none gets it all the same,
    under ADDED; but for a call that is about no model.
    """

    name = "model"

    def apply(self, call: Call, target: Target) -> Call:
        if target.model is None or target.model == call.model:
            return call
        if not (call.model and call.operation.names_model and call.body):
            return _where_it_may_stand(call, target.model)
        return call.with_body(replace_value(call.body, _MODEL, _as_json(target.model)))


@lru_cache(maxsize=1024)  # of the configuration's models
def _as_json(name: str) -> bytes:
    return msgspec.json.encode(name)


def with_model(call: Call, model: str) -> Call:
    """`call`, whose body names none, with `model` in front of all members; all other bytes stay. Entry ADDED."""
    body = call.body
    start = body.index(b"{") + 1
    comma = b"" if _AT_ITS_END.match(body, start) else b","
    member = b'"model":%b%b' % (msgspec.json.encode(model), comma)
    return call.with_body(b"".join((memoryview(body)[:start], member, memoryview(body)[start:])), ADDED)


def _where_it_may_stand(call: Call, model: str) -> Call:
    """`call`, of which nobody knows whether its body names a model, or whether it has one."""
    if not call.body:
        return call
    if any(member.name == "model" for member in Walk(call.body).members()):
        return call.with_body(replace_value(call.body, _MODEL, msgspec.json.encode(model)))
    return with_model(call, model) if call.operation.names_model else call
