"""What an upstream's reply really is: whole, a stream that has begun, one made into the other, or an error."""

from gatepass.verdict.answer import Answer, Begun, Made, Passed, Whole
from gatepass.verdict.judging import judge, let_go

__all__ = ["Answer", "Begun", "Made", "Passed", "Whole", "judge", "let_go"]
