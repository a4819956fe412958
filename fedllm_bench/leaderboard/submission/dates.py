"""Days that a submission can be of: no earlier than what it is made of, and not in the future."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.schema import SUBMISSION
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.leaderboard.submission.tracks import first_day

DAY, MOST_DAYS = 86_400, 36_500  # seconds of a day; no run is longer, whatever its log says
ZONES = datetime.timedelta(days=1)  # clocks of two places show two days


def today() -> datetime.date:
    """The day in UTC; that of the suite's first release on a machine whose clock is behind it."""
    return max(datetime.datetime.now(datetime.UTC).date(), first_day())


def date_problems(submitted: Submitted) -> Iterator[Problem]:
    """Why the day of a submission cannot be. Raises :class:`Refused` for records that cannot be read."""
    said, where = datetime.date.fromisoformat(submitted.bundle.submission.date), f"{SUBMISSION}: date"
    if said > (latest := today() + ZONES):
        yield Problem(code="date", message=f"{said} is in the future; at most {latest} is allowed", where=where)
    if said < first_day():
        text = f"{said} is before the suite's first release; at least {first_day()} is allowed"
        yield Problem(code="date", message=text, where=where)
        return
    for run in submitted.runs if submitted.is_of_suite else ():
        if said < (ended := run_day(run)) - ZONES:
            text = f"{said} is before the run of seed {run.seed} can have ended, which its records say was on {ended}"
            yield Problem(code="date", message=text, where=where)
            return


def run_day(run: SubmittedRun) -> datetime.date:
    """The first day on which a run can have ended: that of its start in environment.json, and the time of its rounds.

    Runs of before the day stood there began on the day of the first release, or later.
    """
    started = first_day()
    if (stated := run.environment.get("date")) is not None:
        try:
            started = datetime.date.fromisoformat(stated)
        except (TypeError, ValueError):
            where = f"{run.where}/environment.json"
            raise Refused("record", f"date: {str(stated)[:40]!a} is not a date", where) from None
    taken = [line.get("seconds") for line in run.files.lines("rounds.jsonl")]
    seconds = sum(max(0.0, one) for one in taken if isinstance(one, int | float))  # the check of the log refuses others
    return started + datetime.timedelta(days=min(seconds // DAY, MOST_DAYS))
