"""Validation: all that is wrong with a submission, found without running anything of it. docs/verifying.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.leaderboard.checks import CHECKS
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.fingerprint_cache import remembered
from fedllm_bench.leaderboard.checks.fingerprints import Fingerprint, fingerprint
from fedllm_bench.leaderboard.site import read_cache
from fedllm_bench.leaderboard.submission.bundle import Bundle, open_bundle
from fedllm_bench.leaderboard.submission.internal import InternalError, own_errors
from fedllm_bench.leaderboard.submission.problems import Problem, Refused, refusals
from fedllm_bench.leaderboard.submission.submitted import Submitted, reading
from fedllm_bench.leaderboard.submission.tiers import tier_of

log = logging.getLogger(__name__)
Tier = Literal["refused", "unchecked", "recomputed", "rejudged", "regenerated", "retrained"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What validation found. `tier`: the highest that holds for this very content; "refused" where something is.

    `error`: an error of this program that kept a check from its end; then the tier is "unchecked", whatever was found.
    """

    path: str
    problems: tuple[Problem, ...]
    digest: str
    tier: Tier
    seconds: float
    error: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.tier not in ("refused", "unchecked")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def validate(path: Path, context: CheckContext) -> Report:
    """Every check on the submission in a folder or zip; what is wrong is in the report, never raised."""
    started, error = time.perf_counter(), ""
    with own_errors(f"opening {path.name}"):
        bundle, problems = open_bundle(path)
    if bundle is not None:
        with reading(bundle) as submitted:
            problems_of_files = refusals(problems)
            found, error = run_checks(submitted, _without(context, bundle))
            problems = [*problems, *found]
            if bundle.folder == path and not problems_of_files:
                _keep(submitted)
    found = list(dict.fromkeys(problems))
    return Report(
        path=str(path),
        problems=tuple(found),
        digest=bundle.digest if bundle else "",
        tier="unchecked" if error else "refused" if bundle is None or refusals(found) else tier_of(bundle),
        seconds=round(time.perf_counter() - started, 2),
        error=error,
    )


def _keep(submitted: Submitted) -> None:
    """For `board build`, which reads what it opens without a problem, whatever the checks say."""
    with suppress(UserError), own_errors("reading a submission for the site"):
        read_cache.save(submitted.bundle, read_cache.kept_of(submitted.bundle, [run.scores for run in submitted.runs]))


def _without(context: CheckContext, bundle: Bundle) -> CheckContext:
    """The board without the submission at hand, which may lie there already: the same content under the same name.

    A name alone proves nothing: a copy in a folder of the same name is still a copy.
    """
    own = (bundle.folder.name, bundle.digest)
    return replace(context, others=[other for other in context.others if (other.name, other.digest) != own])


def run_checks(submitted: Submitted, context: CheckContext) -> tuple[list[Problem], str]:
    """What the checks found; and the first error of this program's own, "" where there was none."""
    problems: list[Problem] = []
    error = ""
    for name in CHECKS:
        try:
            problems += _of_check(name, submitted, context)
        except InternalError as fault:
            log.debug("the check of %s failed", name, exc_info=True)
            error = error or str(fault)
    return problems, error


def _of_check(name: str, submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """What a check found until a record stopped it, and that record."""
    try:
        with own_errors(f"the check of {name} on {submitted.bundle.folder.name}"):
            yield from CHECKS[name](submitted, context)
    except InternalError:
        raise
    except Refused as refused:
        yield refused.problem
    except UserError as error:
        yield Problem(code="record", message=first_line(error)[:400])


def context_of(*, known: Iterable[Fingerprint] = (), splits: Sequence[Path] = ()) -> CheckContext:
    """What submissions are held against: the tracks of this suite, and the fingerprints of a board."""
    return CheckContext(splits=tuple(splits), others=tuple(known))


def known(folder: Path) -> Fingerprint | None:
    """The fingerprint of a submission of the board; None where it cannot be read: nobody can copy from it."""
    with own_errors(f"reading {folder.name} of the board"):
        return remembered(folder, _fingerprint)


def _fingerprint(folder: Path) -> Fingerprint | None:
    bundle, _ = open_bundle(folder, contents=False)
    if bundle is None:
        return None
    try:
        with reading(bundle) as submitted:
            return fingerprint(submitted)
    except InternalError:
        raise
    except UserError:
        return None
