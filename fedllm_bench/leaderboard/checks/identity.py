"""Whose run it is: seeds, configs and hashes fit together, and the track allows the config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from fedllm_bench.common.text import counted, part_of
from fedllm_bench.comparison.run_scores import differences
from fedllm_bench.config import base_model, starting
from fedllm_bench.config.run import EMBEDDED_MODEL
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.fingerprints import BaseScores, base_key, base_scores, digest, loss_digests
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.schema import Suite
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.leaderboard.submission.tracks import rule_problems
from fedllm_bench.methods.fedem import num_mixed
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.scores.tuning_seeds import FIRST_FOR_TUNING, is_for_tuning

MIN_SEEDS = 3


def configs(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The runs are one config under several seeds, with a method that this suite has."""
    if not submitted.is_of_suite:
        return
    first = submitted.runs[0]
    for run in submitted.runs:
        where = f"{run.where}/config.json"
        if run.config.seed != run.seed:
            yield Problem(code="seed", message=f"its seed is {run.config.seed}, not {run.seed}", where=where)
        if is_for_tuning(run.seed):
            text = f"seed {run.seed}: settings are chosen on seeds from {FIRST_FOR_TUNING} on, which are never reported"
            yield Problem(code="seed", message=text, where=where)
        if differs := differences(first.config.to_dict(), run.config.to_dict(), besides=("seed",)):
            text = f"it differs from that of seed {first.seed} in {', '.join(differs[:5])}"
            yield Problem(code="config-of-another", message=text, where=where)
        run.method  # noqa: B018  # raises for constants that it does not take


def seeds(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Enough seeds, and each a training of its own."""
    track = submitted.bundle.submission.track
    wanted = context.tracks[track].min_seeds if track in context.tracks else MIN_SEEDS
    if not submitted.is_canary and len(submitted.runs) < wanted:
        text = f"{len(submitted.runs)} of at least {wanted} seeds: it is shown and not ranked"
        yield Problem(code="few-seeds", message=text, level="flagged")
    digests = {run.seed: set(loss_digests(run)) for run in submitted.runs}
    for one, other in combinations(submitted.runs, 2):
        if digests[one.seed] & digests[other.seed]:
            text = f"seeds {one.seed} and {other.seed} have the same losses of every item: they are one run"
            yield Problem(code="one-run-twice", message=text, where=f"{other.where}/scores")
    yield from _same_adapters(submitted)


def _same_adapters(submitted: Submitted) -> Iterator[Problem]:
    own = {entry.seed: entry.adapter.sha256 for entry in submitted.bundle.submission.runs if entry.adapter}
    for one, other in combinations(sorted(own), 2):
        if own[one] == own[other]:
            text = f"seeds {one} and {other} have one adapter"
            yield Problem(code="one-run-twice", message=text, where=f"runs/{other}/adapter")


def provenance(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Hashes of split, base and config are the same wherever they stand, and the config's is right."""
    if submitted.is_of_suite:
        suite = submitted.bundle.submission.suite
        for run in submitted.runs:
            yield from _suite(run, suite)
            yield from _hashes(run)
            yield from _about(run)


def _suite(run: SubmittedRun, said: Suite) -> Iterator[Problem]:
    """The version and commit of submission.json are those that made the run; no commit where runs differ in it."""
    stated = {"version": said.version, "commit": said.commit}
    own = {"version": run.environment.get("fedllm_bench"), "commit": run.environment.get("commit")}
    if wrong := [key for key in own if stated[key] != own[key] and (key != "commit" or said.commit is not None)]:
        text = f"suite.{wrong[0]} is {str(stated[wrong[0]])[:40]!a}, and {str(own[wrong[0]])[:40]!a} of the run"
        yield Problem(code="provenance", message=text, where=f"{run.where}/environment.json")


def _hashes(run: SubmittedRun) -> Iterator[Problem]:
    data = run.environment.get("data")
    data = data if isinstance(data, dict) else {}
    entry = run.files.entry
    for key in ("split_hash", "base_hash"):
        if data.get(key) != getattr(entry, key):
            text = f"{key} is {str(data.get(key))[:16]!a}, and {getattr(entry, key)[:16]!a} in submission.json"
            yield Problem(code="provenance", message=text, where=f"{run.where}/environment.json")
    model = run.config.model
    if model.name == EMBEDDED_MODEL and model.adapter is None:
        embedded = starting.base_fingerprint(base_model.locate(EMBEDDED_MODEL), None, model.quantization)
        if entry.base_hash != embedded:
            text = f"the embedded base model has hash {embedded[:16]}, the run's is {entry.base_hash[:16]!a}"
            yield Problem(code="base", message=text, where=f"{run.where}/environment.json")
    right = settings_hash(run.config, entry.split_hash, entry.base_hash)
    if entry.config_hash != right:
        text = f"the hash of its config, split and base is {right}, not {entry.config_hash!a}"
        yield Problem(code="config-hash", message=text, where=f"{run.where}/config.json")


def _about(run: SubmittedRun) -> Iterator[Problem]:
    """What results.json says of the run it is of."""
    config, entry, about = run.config, run.files.entry, run.results["run"]
    expected = {
        "method": config.method.name,
        "profile": config.profile,
        "track": config.track,
        "seed": config.seed,
        "personal": run.method.personal,
        "config_hash": entry.config_hash,
    }
    if about.get("base_hash"):  # files of before do not say it
        expected["base_hash"] = entry.base_hash
    if (mixed := num_mixed(run.method)) > 1 or "mixture" in about:
        expected["mixture"] = mixed
    wrong = {key: about.get(key) for key, value in expected.items() if about.get(key) != value}
    if wrong:
        text = "; ".join(f"{key} is {value!a}, not {expected[key]!a}" for key, value in wrong.items())
        yield Problem(
            code="provenance", message=f"it is of another run: {text}"[:300], where=f"{run.where}/results.json.gz"
        )


def track_rules(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """The track is there, and what it fixes is as it says; work of elsewhere can enter open tracks only."""
    name = submitted.bundle.submission.track
    if name not in context.tracks:
        text = f"no track {name!a}; there are {', '.join(sorted(context.tracks))}"
        yield Problem(code="track", message=text[:400], where="submission.json: track")
        return
    track = context.tracks[name]
    if not submitted.is_of_suite:
        if track.kind != "open" and not submitted.is_canary:  # canaries stand beside the methods that they warn of
            text = f"runs that this suite did not make can enter an open track only, not {name}"
            yield Problem(code="track", message=text, where="submission.json: track")
        return
    run = submitted.runs[0]
    for problem in [] if submitted.is_canary else rule_problems(track, run.config):
        yield replace(problem, where=f"{run.where}/config.json")


def base(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """All seeds, and all submissions on this base and split, began at the same scores."""
    first, entries = submitted.runs[0], submitted.bundle.submission.runs
    for key in ("base_hash", "split_hash"):
        if len({getattr(entry, key) for entry in entries}) > 1:
            yield Problem(code="base", message=f"the runs have more than one {key}", where="submission.json")
    for run in submitted.runs[1:]:
        yield from _same_base(first, run)
    yield from _base_of_board(first, context)


CLOSE, FEW = 0.01, 0.01  # of an item's value, and of the items: hardware rounds sums otherwise, and ties fall otherwise
MEAN_CLOSE = 1e-3


def _same_base(first: SubmittedRun, run: SubmittedRun) -> Iterator[Problem]:
    for name, sides in run.sets.items():
        theirs = {(s.cluster, s.item_id): s for s in first.sets[name].before} if name in first.sets else {}
        far = 0
        for score in sides.before:
            other = theirs.get((score.cluster, score.item_id))
            a, b = score.value, other.value if other else None
            far += a is None or b is None or abs(a - b) > CLOSE * max(1.0, abs(b))
        if far > FEW * max(1, len(sides.before)) or len(theirs) != len(sides.before):
            text = f"the base scored otherwise than for seed {first.seed} in {part_of(far, len(sides.before), 'item')}"
            yield Problem(code="base", message=text, where=f"{run.where}/scores/{name}.before.jsonl.gz")
        elif digest(sides.before) != digest(first.sets[name].before):
            text = f"the base's scores are not exactly those of seed {first.seed} (another machine?)"
            where = f"{run.where}/scores/{name}.before.jsonl.gz"
            yield Problem(code="base-rounded", message=text, where=where, level="flagged")


def _base_of_board(run: SubmittedRun, context: CheckContext) -> Iterator[Problem]:
    key, ours = base_key(run), base_scores(run)
    known = [other.bases[key] for other in context.others if key and key in other.bases]
    for name, mine in ours.items() if known else ():
        theirs = _middle([scores[name] for scores in known if name in scores])
        if theirs is None or theirs.digest == mine.digest or theirs.mean is None:
            continue
        room = (MEAN_CLOSE if "loss" in name or name == "heldout" else FEW) * max(1.0, abs(theirs.mean))
        if mine.mean is None or mine.n != theirs.n or abs(mine.mean - theirs.mean) > room:
            text = f"the base's mean is {mine.mean} over {counted(mine.n, 'item')}; "
            text += f"the board's is {theirs.mean} over {theirs.n}"
            yield Problem(code="base", message=text, where=f"{run.where}/scores/{name}.before.jsonl.gz")


def _middle(scores: Sequence[BaseScores]) -> BaseScores | None:
    """The median by mean of what the board has: neither the first one, by name or date, nor a single one decides."""
    ordered = sorted((one for one in scores if one.mean is not None), key=lambda one: (one.mean, one.n, one.digest))
    return ordered[(len(ordered) - 1) // 2] if ordered else None
