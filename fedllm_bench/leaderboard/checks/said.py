"""What a submission says of itself and its records do not have to bear out: its day, its names, its tier."""

from __future__ import annotations

from collections.abc import Iterator

from fedllm_bench.config import presets
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.dates import ZONES, date_problems, today
from fedllm_bench.leaderboard.submission.names import Known
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.schema import SUBMISSION
from fedllm_bench.leaderboard.submission.submitted import Submitted
from fedllm_bench.leaderboard.submission.tiers import records_of, when


def dates(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The day is one on which these runs can have been submitted."""
    yield from date_problems(submitted)


def names(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Nobody is named so that a reader takes it for another; one name with two contacts may be two teams."""
    said = submitted.bundle.submission
    for text in Known.of(context.others).notes(said):
        yield Problem(code="look-alike", message=text, where=SUBMISSION, level="flagged")
    contacts = {other.contact for other in context.others if other.team == said.team} - {said.contact}
    if contacts:
        text = f"the team {said.team!a} is on the board with another contact ({min(contacts)!a}); is it the same team?"
        yield Problem(code="team", message=text, where=f"{SUBMISSION}: contact", level="flagged")
    yield from _method(submitted)


def _method(submitted: Submitted) -> Iterator[Problem]:
    """A row that is named like a method of the suite is of that method."""
    named = submitted.bundle.submission.method.casefold()
    if submitted.is_canary or not submitted.is_of_suite or named not in presets.method_names():
        return
    if (made := submitted.runs[0].config.method.name) != named:
        text = f"it is named {submitted.bundle.submission.method!a}, and its config says that the method is {made!a}"
        yield Problem(code="look-alike", message=text, where=f"{SUBMISSION}: method", level="flagged")


def tiers(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """A record that lifts the row was written by somebody who says to be a maintainer; none is of a day to come."""
    latest = (today() + ZONES).isoformat()
    for path in sorted(submitted.bundle.records):
        if when(path)[0] > latest:
            text = f"it would replace every later record of its tier; at most {latest} is allowed"
            yield Problem(code="date", message=text, where=path)
    for record in records_of(submitted.bundle):
        if record.outcome == "passed":
            text = f"a record of {record.name[:60]!a} gives it {record.tier}: check that a maintainer committed it"
            yield Problem(code="tier-record", message=text, where="records", level="flagged")
