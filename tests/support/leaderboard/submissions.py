"""An honest submission of three tiny runs, and what a forger needs to change one and fix up its hashes."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick, run

from fedllm_bench import cli
from fedllm_bench.commands import answer
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.judges.preset import load_judge
from fedllm_bench.evaluation.judges.questions import Asker
from fedllm_bench.evaluation.judges.rule import RuleJudge
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission import bundle, dates, recompute
from fedllm_bench.leaderboard.submit import assemble, own_runs, placing
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import client_rows, metrics_of

SEEDS = (0, 1, 2)
OPEN = "mini-aya/open"
MORE = ("--metrics", "heldout,mini_exact,mini_choice", "--set", "evaluation.local_clients=1")


def run_folders(
    split: Split, out: Path, *more: str, method: str = "fedavg", answers: bool = True, seeds: Sequence[int] = SEEDS
) -> list[Path]:
    """Finished runs of one cell, with answers to the mini world's questions and their judgements."""
    for seed in seeds:
        run(method, split.folder, out / str(seed), *MORE, "--seed", str(seed), *more)
    folders = [next((out / str(seed) / "mini-aya" / method).glob("s*")) for seed in seeds]
    for folder in folders if answers else ():
        assert cli.main(["answer", str(folder), "--metrics", "mini"]) == 0
        assert cli.main(["judge", str(folder), "--judge", "mini_rule"]) == 0
    return folders


def submitted(folders: Iterable[Path], out: Path, *, track: str = OPEN, **said: Any) -> Path:
    """As `fedllm-bench submit` makes it."""
    submit, runs = assemble, own_runs.open_runs(list(folders), dirty=True)
    statement = {"team": "Example Lab", "contact": "lab@example.org", "tuning": "as published", "method": "mine"}
    statement |= {"date": dates.today().isoformat(), "track": track, **said}
    made = submit.draft(runs, submit.Statement(**statement))
    return placing.write(made, out)


def honest(split: Split, out: Path, *more: str, **how: Any) -> Path:
    """A submission that must be accepted; of one run unless `seeds` says otherwise."""
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "num_threads", lambda: 1)
        return submitted(run_folders(split, out / "runs", *more, **{"seeds": (0,), **how}), out / "board")


@dataclass(frozen=True)
class Forgery:
    """A submission in a folder that can be changed; `path` is inside it, as "runs/0/rounds.jsonl.gz"."""

    folder: Path

    @property
    def head(self) -> dict[str, Any]:
        return files.read_json(self.folder / "submission.json")

    def set_head(self, change: Callable[[dict[str, Any]], Any]) -> None:
        head = self.head
        change(head)
        (self.folder / "submission.json").write_text(json.dumps(head), encoding="utf-8")

    def json(self, path: str, change: Callable[[Any], Any]) -> None:
        """Change a JSON file; no hash is fixed up."""
        content, is_packed = (self.folder / path).read_bytes(), path.endswith(".gz")
        value = json.loads(gzip.decompress(content) if is_packed else content)
        change(value)
        content = (json.dumps(value) + "\n").encode()
        self.write(path, gzip.compress(content, mtime=0) if is_packed else content)

    def lines(self, path: str) -> list[Any]:
        text = gzip.decompress((self.folder / path).read_bytes()).decode()
        return [json.loads(line) for line in text.splitlines()]

    def set_lines(self, path: str, change: Callable[[list[Any]], Any]) -> None:
        """Change the lines of a packed file in place, or give new ones."""
        lines = self.lines(path)
        lines = change(lines) or lines
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self.write(path, gzip.compress(text.encode(), mtime=0))

    def write(self, path: str, content: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)

    def fix_hashes(self) -> None:
        """What a careful forger does: list every file as it is now."""
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name != "submission.json"]
        listed = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

        def relist(head: dict[str, Any]) -> None:
            head["files"] = {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                for name, content in listed.items()
            }
            for entry in head["runs"]:
                inside = head["files"].get(f"runs/{entry['seed']}/adapter/adapter_model.safetensors")
                entry["adapter"] = entry["adapter"] and inside and {**entry["adapter"], **inside}

        self.set_head(relist)

    def fix_claims(self) -> None:
        """Claims and results.json as the records now give them."""
        claims: dict[str, dict[str, float | None]] = {}
        self.fix_hashes()
        opened, _ = bundle.open_bundle(self.folder)
        for one in opened.runs():
            sets = recompute.score_sets(one)
            infos = {name: METRICS[name].info for name in sets}
            right = metrics_of(sets, infos)
            self.json(f"runs/{one.seed}/results.json.gz", _set_metrics(right, sets, client_rows))
            for name, mean in recompute.means(recompute.seed_scores(one)).items():
                claims.setdefault(name, {})[str(one.seed)] = mean
        self.set_head(lambda head: head.update(claims=claims))
        self.fix_hashes()


def _set_metrics(right: Any, sets: Any, rows: Any) -> Callable[[Any], None]:
    def change(results: Any) -> None:
        results["metrics"] = right
        results["clients"] = {name: [vars(row) for row in rows(of)] for name, of in sets.items()}

    return change


def codes(report: Any, level: str = "") -> set[str]:
    return {problem.code for problem in report.problems if level in ("", problem.level)}


def context(split: Split, **more: Any) -> Any:
    """Without a board; the tiny split is at hand."""
    made = CheckContext(splits=(split.folder,))
    return replace(made, **more)


def rejudged(forgery: Forgery, benchmark: str = "mini", side: str = "global", seed: int = 0) -> None:
    """The judgements that the rule gives of the answers as they are now: no request or reply tells of the change."""
    preset, asker, run = load_judge("mini_rule"), Asker.of(benchmark), f"runs/{seed}"
    judge = RuleJudge(preset)
    prompts = [Prompt(**line) for line in forgery.lines(f"{run}/answers/{benchmark}/prompts.jsonl.gz")]
    answers = [Answer(**line) for line in forgery.lines(f"{run}/answers/{benchmark}/{side}.jsonl.gz")]
    asked = list(asker.single(prompts, {answer.item_id: answer for answer in answers}, 1))
    said = {question.slot.item_id: (judge.key(question), judge.stored(question)) for question in asked}

    def change(lines: list[Any]) -> None:
        for line in lines:
            key, reply = said[line["item_id"]]
            line.update(request_hash=key, reply=asdict(reply))

    forgery.set_lines(f"{run}/judgements/{preset.id}/{benchmark}/{side}.jsonl.gz", change)
