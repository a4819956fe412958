"""What is kept of a submission to tell whether another one is a copy of it, and whether both have the same base."""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.thoughts import without_thoughts
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.scores.score import Score

SHORTEST = 40  # characters: shorter answers may be alike by themselves
WORDS, SAMPLES = 5, 8  # of a sketch: sequences of WORDS words, the smallest of SAMPLES hashes each
SEEDS = tuple(range(1, SAMPLES + 1))
LOSSES = ("heldout", "preference_loss", "preference_margin")  # real numbers: no two trainings give the same ones
VERSION = 5  # raise it when equal submissions give other fingerprints
Sketch = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BaseScores:
    mean: float | None
    n: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training hangs on, and how long its rounds took; both "" where no complete log says it."""

    cause: str = ""
    clock: str = ""

    def may_repeat(self, other: Training) -> bool:
        """Whether equal results can come from doing the other again: one config, seed, split and base, another time."""
        return bool(self.cause) and self.cause == other.cause and self.clock != other.clock


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """`losses` and `adapters`: digests of what trainings share only if one is a copy, or does the other again.

    `answers`: benchmark -> item -> sketch, of the training `answers_of`. `bases`: what the base was scored on -> metric
    -> its scores.
    """

    name: str
    team: str
    contact: str
    method: str
    track: str
    digest: str
    losses: Mapping[str, Training]
    adapters: Mapping[str, Training]
    answers_of: Training
    answers: Mapping[str, Mapping[str, Sketch]]
    bases: Mapping[str, Mapping[str, BaseScores]]


def fingerprint(submitted: Submitted) -> Fingerprint:
    """Raises a :class:`UserError` where the records cannot be read."""
    bundle, runs = submitted.bundle, submitted.runs
    of = {run.seed: training_of(submitted, run) for run in runs}
    return Fingerprint(
        name=bundle.folder.name,
        team=bundle.submission.team,
        contact=bundle.submission.contact,
        method=bundle.submission.method,
        track=bundle.submission.track,
        digest=bundle.digest,
        losses={digest: of[run.seed] for run in runs for digest in loss_digests(run)},
        adapters={
            entry.adapter.sha256: of[entry.seed] for entry in bundle.submission.runs if entry.adapter is not None
        },
        answers_of=of[runs[0].seed] if runs else Training(),
        answers=_answers(runs),
        bases={key: base_scores(run) for run in submitted.runs if (key := base_key(run))},
    )


def training_of(submitted: Submitted, run: SubmittedRun) -> Training:
    """Of a run of this suite with every round in its log; else it is not known what it hangs on."""
    entry = run.files.entry
    try:
        if not submitted.is_of_suite or not run.has_its_rounds:
            return Training()
    except Refused:
        return Training()
    cause = files.sha256_json([entry.config_hash, entry.seed, entry.split_hash, entry.base_hash])
    return Training(cause=cause, clock=files.sha256_json([line.seconds for line in run.rounds]))


def loss_digests(run: SubmittedRun) -> list[str]:
    """Of the scores after training of each metric of real numbers; none where they are those of the base."""
    sets = {name: run.sets[name] for name in LOSSES if name in run.sets}
    digests = {name: (digest(sides.after), digest(sides.before)) for name, sides in sets.items()}
    return [after for after, before in digests.values() if after != before]


def digest(scores: Iterable[Score]) -> str:
    """Of the items' values in any order."""
    return files.sha256_json(sorted((score.cluster, score.item_id, score.value) for score in scores))


def base_key(run: SubmittedRun) -> str:
    """All that the base's scores hang on, but for the rounding of sums; "" where no config says it."""
    if not run.files.has("config.json"):
        return ""
    config, data = run.config, run.environment.get("data", {})
    asked = [data.get("base_hash"), data.get("split_hash"), config.model.dtype, config.data.template]
    return files.sha256_json([*asked, config.local.sequence_length, config.evaluation.max_new_tokens])


def base_scores(run: SubmittedRun) -> dict[str, BaseScores]:
    return {name: summary(sides.before) for name, sides in run.sets.items()}


def summary(scores: Sequence[Score]) -> BaseScores:
    values = [score.value for score in scores if score.value is not None]
    mean = sum(values) / len(values) if values else None
    return BaseScores(mean=mean, n=len(scores), digest=digest(scores))


def _answers(runs: Sequence[SubmittedRun]) -> dict[str, dict[str, Sketch]]:
    """Of the first run: its seeds are compared with each other by a check of their own."""
    return sketches(runs[0]) if runs else {}


def sketches(run: SubmittedRun) -> dict[str, dict[str, Sketch]]:
    """Benchmark -> item -> the sketch of the global adapter's answer, of those that tell where they come from.

    Short ones do not, nor what a model says to several prompts: refusals are the same sentence in many runs.
    """
    found = {}
    for benchmark, material in run.materials.items():
        texts = {
            item: plain("\n".join(without_thoughts(answer.turns)))
            for item, answer in material.answers.get(GLOBAL, {}).items()
        }
        times = Counter(texts.values())
        telling = {item: text for item, text in texts.items() if len(text) >= SHORTEST and times[text] == 1}
        found[benchmark] = {item: sketch(text) for item, text in telling.items()}
    return found


def plain(text: str) -> str:
    """The words of a text without case and signs."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def sketch(text: str) -> Sketch:
    """Min-hashes (Broder, 1997) of sequences of words, or of characters where a script has no spaces."""
    words = text.split() if text.count(" ") * 12 >= len(text) else list(text)
    parts = [" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))]
    return tuple(min(zlib.crc32(part, seed * 0x9E3779B1 & 0xFFFFFFFF) for part in parts) for seed in SEEDS)


def similarity(a: Sketch, b: Sketch) -> float:
    """The estimated share of sequences that both have."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
