"""An upstream that refuses with the same error until it gets the body that it accepts."""

import json

from gatepass.learning.memory import Memory
from gatepass.types import Call
from tests.unit.learning.rejections import Case
from tests.unit.learning.upstreams import Outcome, Refusal, ask


class Insisting:
    """Refuses each request with the error of `case`, except the one that is accepted in the end."""

    def __init__(self, case: Case, *, accepts: bool = True) -> None:
        self.case, self.accepts = case, accepts

    def answer(self, call: Call) -> Refusal | None:
        is_accepted = json.loads(call.body) == self.case.expected and call.max_inputs == self.case.max_inputs
        return None if self.accepts and is_accepted else Refusal(lambda _: True, self.case.body, self.case.status)


def ending(case: Case, *, accepts: bool = True) -> Outcome:
    return ask(Memory(), Insisting(case, accepts=accepts), case.call)
