"""From a judge behind HTTP to a record of the tier `rejudged`: run, judge, submit, validate, rejudge."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import code_of, quick
from judge_server import Body, JudgeServer, Said, judge_server, says
from submissions import codes, context, submitted

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.leaderboard.checks import validate

pytestmark = pytest.mark.slow
BETTER = 3  # what a forger adds to each rating


def rated(body: Body, add: int = 0) -> Said:
    """By what is asked, 2 to 6, in the words of a judge."""
    asked = zlib.crc32(body["messages"][-1]["content"].encode())
    return says(f"I looked at it. Rating: [[{2 + asked % 5 + add}]]")


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with quick():
        yield


@pytest.fixture
def run_folder(honest: Path, tmp_path: Path) -> Path:
    """The run of the honest submission, answered and not judged."""
    (found,) = (honest.parents[1] / "runs").glob("*/mini-aya/fedavg/s*")
    folder = Path(shutil.copytree(found, tmp_path / "runs" / "mini-aya" / "fedavg" / found.name))
    shutil.rmtree(folder / "judgements")
    return folder


def judge_file(folder: Path, server: JudgeServer) -> Path:
    path = folder / "judge.toml"
    path.write_text(f'model = "judge"\nbase_url = "{server.address}"\n[limits]\ntries = 2\n')
    return path


def submission(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: int = 0) -> Path:
    """Judged with `add` on each rating, and submitted; the replies are in the submitter's cache."""
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "submitter"))
    with judge_server(lambda body, before: rated(body, add)) as server:
        words = ["judge", str(run_folder), "--judge", str(judge_file(tmp_path, server)), "--metrics", "mini"]
        assert code_of(words) == 0
        assert server.requests > 40
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "maintainer"))
    return submitted([run_folder], tmp_path / "board")


def rejudge(folder: Path, split: Split, *words: str) -> int:
    return code_of(["board", "rejudge", str(folder), "--name", "A", "--split", str(split.folder), *words])


def test_an_honest_submission_is_rejudged_over_http(run_folder, tiny_split, tmp_path, monkeypatch):
    folder = submission(run_folder, tmp_path, monkeypatch)
    assert codes(validate.validate(folder, context(tiny_split))) <= {"few-seeds"}
    with judge_server(lambda body, before: rated(body)) as server:
        assert rejudge(folder, tiny_split, "--judge", str(judge_file(tmp_path, server))) == 0
        (record,) = (files.read_json(path) for path in (folder / "records").iterdir())
        assert len(record["ids"]) == 20
        assert 10 <= server.requests == len(server.times) <= 20  # equal answers of both sides are one request
    assert (record["tier"], record["outcome"]) == ("rejudged", "passed")
    assert server.address not in str(record)
    assert validate.validate(folder, context(tiny_split)).tier == "rejudged"


def test_ratings_that_are_better_than_the_judge_gives_fail(run_folder, tiny_split, tmp_path, monkeypatch):
    """At the tier `recomputed` nobody can see it; the judge can."""
    folder = submission(run_folder, tmp_path, monkeypatch, add=BETTER)
    assert validate.validate(folder, context(tiny_split)).tier == "recomputed"
    with judge_server(lambda body, before: rated(body)) as server:
        assert rejudge(folder, tiny_split, "--judge", str(judge_file(tmp_path, server))) == 1
    (record,) = (files.read_json(path) for path in (folder / "records").iterdir())
    assert record["outcome"] != "passed"
    assert validate.validate(folder, context(tiny_split)).tier == "recomputed"


def test_without_the_maintainers_settings_nobody_is_asked(run_folder, tiny_split, tmp_path, monkeypatch, capsys):
    folder = submission(run_folder, tmp_path, monkeypatch)
    assert rejudge(folder, tiny_split) == 2
    assert "give its settings with --judge FILE.toml" in capsys.readouterr().err
    assert not (folder / "records").exists()
