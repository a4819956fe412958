"""What can be wrong with a submission: stable codes, so that a reader, a test and a pull request mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedllm_bench.common.errors import UserError, escaped

Level = Literal["refused", "flagged"]

# Code -> what it means. The only list: a Problem with another code cannot be made.
PROBLEMS: dict[str, str] = {
    # the folder or zip itself
    "unreadable": "the path is no folder or zip that can be read",
    "zip": "the zip is broken, encrypted, packed by an unusual method or too large",
    "zip-bomb": "a file unpacks to far more than any record of a run",
    "link": "a link, which could point outside the submission",
    "special-file": "a device, pipe or socket",
    "unsafe-name": "a name that could leave the folder, or that not every system can store",
    "name-twice": "two names that differ in upper and lower case only, or not at all",
    "too-many-files": "more files or folders than any submission has",
    "too-large": "a file, or all together, larger than is allowed",
    "not-a-submission": "there is no submission.json",
    # texts
    "not-text": "not UTF-8, or half a character",
    "not-json": "no JSON, or a number that no finite float can hold",
    "deep-json": "JSON nested deeper than any record",
    "key-twice": "a JSON object with one key twice: two readers would see two values",
    "long-line": "a line longer than any record",
    "not-gzip": "a file named .gz that is none, or is cut",
    "record": "a line or file that is no such record",
    # submission.json
    "schema": "submission.json does not fit its schema",
    "seed-twice": "two runs of one seed",
    # the hash chain
    "file-unknown": "a file that has no place in a submission",
    "file-unlisted": "a file that submission.json does not list",
    "file-missing": "a file that submission.json lists and that is not there",
    "file-required": "a record that every run needs and that this one does not have",
    "file-hash": "a file whose sha256 is not the listed one",
    "file-bytes": "a file whose size is not the listed one",
    "adapter": "the adapter in the folder is not the one that submission.json states",
    # whose run it is
    "seed": "a run's config has another seed than the submission says, or one on which settings are chosen",
    "few-seeds": "fewer seeds than a ranked row needs",
    "one-run-twice": "two seeds are one and the same training",
    "config-of-another": "the runs differ in more than their seed",
    "config-hash": "the hash of a run is not that of its config, split and base",
    "provenance": "files of a run disagree on what it was made of",
    "base": "the base model scored otherwise than for the other seeds, or on the board",
    "base-rounded": "the base's scores differ between seeds by rounding",
    "split": "the split is not the one that the benchmark builds",
    "split-not-at-hand": "what follows from the split's rows was not checked",
    "track": "no such track, or one that these runs cannot enter",
    "plugin": "a plugin without its source, with another source than its hash, or under a name of the suite",
    "plugin-not-run": "a plugin's source is never run here, so what hangs on it was not computed again",
    # what it says of itself
    "date": "a day on which these runs cannot have been submitted",
    "look-alike": "a name that a reader could take for another one",
    "team": "a team's name with another contact than on the board",
    "canary": "a row called a canary that nothing shows to be one",
    "privacy": "a guarantee that does not follow from the config, or is weaker than the track allows",
    # scores
    "items": "items left out, added, or taken for others",
    "uncovered": "questions without a score or an answer",
    "evidence": "a score is not what its own evidence says",
    "claims": "a claimed mean is not that of the records",
    "results": "a number of results.json is not that of the records",
    "intervals": "a limit of an interval comes out otherwise here",
    # the training log
    "rounds": "other rounds than the config has",
    "log": "numbers of a round that cannot be",
    "cost": "results.json does not sum up the log",
    "learning-rate": "a round's rate is not that of the config",
    "schedule": "other clients than the seed gives",
    "num-examples": "other numbers of rows than the split has",
    "local-steps": "other numbers of local steps than the config gives",
    "bytes": "other numbers of bytes than the adapter and the method give",
    "bytes-not-derived": "the numbers of bytes were not checked",
    "adapter-file": "no adapter of this config: form, shapes or values",
    "adapter-untrained": "an adapter that changes nothing",
    "adapter-distance": "an adapter further from its start than its rounds moved it",
    # answers and judgements
    "plan": "answers made with other settings than the published ones",
    "prompts": "prompts that are not the benchmark's",
    "prompts-not-at-hand": "whether prompts are the benchmark's was not checked",
    "answer-twice": "two answers to one prompt",
    "answer-unasked": "an answer to what was not asked",
    "unjudged": "answers without a judgement",
    "judge": "a judge whose name is not that of its settings",
    "judge-imported": "a judge whose replies were recorded elsewhere",
    "judge-model": "replies that name another model than the judge's",
    "judgement-twice": "two judgements of one answer",
    "judgement-request": "a judgement of another answer or question",
    "judgement-rule": "a reply that the judge, which is a rule, does not give",
    "judgements-unchecked": "whether judgements are of these answers was not checked",
    "answers-empty": "answers without a word",
    "answers-constant": "the same answer to every prompt",
    "answers-duplicated": "the same answer to many prompts",
    "answers-as-references": "answers that are the references",
    "judge-injection": "answers that speak to the judge",
    "copied": "a training that another submission has",
    "copied-answers": "answers that another submission, or another seed, has",
    # a tier
    "tier": "what a maintainer made again came out otherwise",
    "tier-record": "a record that lifts the row, which a maintainer must have committed",
    # the rules of the track
    "track-rule": "a setting that the rules of the track do not allow",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`level` "refused" keeps the submission out; "flagged" asks a person to look. `where` is a file or field."""

    code: str
    message: str
    where: str = ""
    level: Level = "refused"

    def __post_init__(self) -> None:
        if self.code not in PROBLEMS:
            raise ValueError(f"no problem {self.code!r}; add it to PROBLEMS")

    @property
    def line(self) -> str:
        """One line for a terminal; control characters, which a terminal would obey, are escaped."""
        where = f"{self.where}: " if self.where else ""
        return escaped(f"{self.level} [{self.code}] {where}{self.message}")


class Refused(UserError):
    """Untrusted input with something wrong in it: a :class:`UserError` that knows its problem."""

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.problem = Problem(code=code, message=message, where=where)


def refusals(problems: Iterable[Problem]) -> list[Problem]:
    """Those that keep a submission out."""
    return [problem for problem in problems if problem.level == "refused"]
