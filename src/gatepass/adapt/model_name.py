"""Rule "model": the upstream's name of the model in the place of the public one."""

from __future__ import annotations

import msgspec

from gatepass.call import Call, Surface, Target
from gatepass.jsontext import replace_value


class ModelName:
    """Sends `target.model` where a route names one. Only that value's span changes.

    The Call keeps the public name in `model`, and `x-gatepass-adapted` shows no entry: the name is
    what the operator's route says, not a repair of what the client sent.
    """

    name = "model"

    def apply(self, call: Call, target: Target) -> Call:
        if target.model is None or target.model == call.model or call.operation.surface is Surface.MODELS:
            return call
        return call.with_body(replace_value(call.body, "model", msgspec.json.encode(target.model)))
