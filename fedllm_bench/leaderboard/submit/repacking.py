"""The results of a submission made again from its own scores, after the rule for intervals changed.

    python -m fedllm_bench.leaderboard.submit.repacking leaderboard/submissions/*

Only results.json.gz and its hash in submission.json change; scores, answers, logs and the means that follow from them
stay as they were. For maintainers: the digest changes, so records of a higher tier no longer count.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.submission.problems import refusals
from fedllm_bench.leaderboard.submission.recompute import score_sets
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.submission.schema import SUBMISSION
from fedllm_bench.leaderboard.submit.packing import compressed, encoded, listed
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import client_rows, made_with, metrics_of
from fedllm_bench.results.schema import SCHEMA_VERSION, check_results

RESULTS = "results.json"


def repacked(folder: Path) -> bool:
    """Whether anything changed. Raises a :class:`UserError` for what is no submission that could be validated."""
    bundle, problems = open_bundle(folder)
    if bundle is None or (wrong := refusals(problems)):
        raise UserError(f"{folder}: {f'{wrong[0].where}: {wrong[0].message}' if bundle else 'no submission'}")
    changed = {f"runs/{run.seed}/{RESULTS}.gz": _packed(run) for run in bundle.runs() if run.has(RESULTS)}
    changed = {name: content for name, content in changed.items() if (folder / name).read_bytes() != content}
    if changed:
        _write(folder, changed)
    return bool(changed)


def _packed(run: RunFiles) -> bytes:
    return compressed(encoded(results_of(run)))


def results_of(run: RunFiles) -> dict[str, Any]:
    """results.json with everything that the scores decide made anew.

    Raises a :class:`UserError` where it holds intervals of scores that are not in the submission.
    """
    stated, sets = run.json(RESULTS), score_sets(run)
    check_results(stated)
    without = [name for name, entry in stated["metrics"].items() if entry["local"] is not None]
    if stated["personalisation"] is not None or (without and not any(one.local for one in sets.values())):
        raise UserError(f"{RESULTS} of seed {run.seed} has intervals of scores that are not there; run it again")
    again = {
        "schema_version": SCHEMA_VERSION,
        "intervals": made_with(),
        "metrics": metrics_of(sets, {name: METRICS[name].info for name in sets}),
        "clients": {name: [vars(row) for row in client_rows(one)] for name, one in sets.items()},
    }
    check_results({**stated, **again})
    return {**stated, **again}


def _write(folder: Path, changed: dict[str, bytes]) -> None:
    head = files.read_json(folder / SUBMISSION)
    head["files"] |= listed(changed)
    for name, content in changed.items():
        files.write_bytes(folder / name, content)
    files.write_bytes(folder / SUBMISSION, encoded(head))


def main(words: Sequence[str]) -> int:
    if not words:
        sys.stderr.write("repacking: give the folders of submissions, such as leaderboard/submissions/*\n")
        return 2
    for word in words:
        try:
            state = "made again" if repacked(Path(word)) else "as it was"
        except UserError as error:
            sys.stderr.write(f"repacking: {error}\n")
            return 2
        sys.stdout.write(f"{word}: {state}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
