"""The results as the Markdown table of docs/quirks.md."""

from collections import Counter
from collections.abc import Iterator

from tests.e2e.quirks.assessment import Outcome
from tests.e2e.quirks.measurement import PathResults


def summary(direct: PathResults, via_gatepass: PathResults) -> Iterator[str]:
    """Yield the table of docs/quirks.md: the number of each outcome, by client."""
    yield "| SDK | direct: right | error | wrong, no error | empty, no error | through gatepass: right | not right |"
    yield "|---|---|---|---|---|---|---|"
    for title, assessments in direct.assessments.items():
        direct_counts = Counter(assessment.outcome for assessment in assessments.values())
        gatepass_counts = Counter(assessment.outcome for assessment in via_gatepass.assessments[title].values())
        counts = [direct_counts[outcome] for outcome in (Outcome.RIGHT, Outcome.ERROR, Outcome.WRONG, Outcome.EMPTY)]
        counts += [gatepass_counts[Outcome.RIGHT], gatepass_counts.total() - gatepass_counts[Outcome.RIGHT]]
        yield f"| {title} | {' | '.join(map(str, counts))} |"
