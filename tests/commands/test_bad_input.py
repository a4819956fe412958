"""Bad input: exit code 2, one clear line, and no run folder left behind."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_runs import assert_refused, quick, words

from fedllm_bench.data.manifest import Split


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


# --- the command line

COMMANDS = {
    "dataset": (["bench", "ayaa", "fedavg"], "no dataset 'ayaa'", "did you mean 'aya'"),
    "an SFT metric": (
        ["bench", "chatbot_pa", "fedavg", "--metrics", "heldout"],
        "heldout is for splits of task sft",
        "preference_margin",
    ),
    "method": (["bench", "aya", "fedproxx"], "no method 'fedproxx'", "did you mean 'fedprox'"),
    "profile": (["bench", "aya", "fedavg", "--profile", "minni"], "did you mean 'mini'", "paper"),
    "engine": (["bench", "aya", "fedavg", "--engine", "gpu"], "--engine", "'inprocess'"),
    "option": (["bench", "aya", "fedavg", "--sed", "1"], "no option --sed", "did you mean --seed?"),
    "option that is a setting": (["bench", "aya", "fedavg", "--rounds", "3"], "--set federation.rounds=VALUE"),
    "option of another command": (["bench", "aya", "fedavg", "--unseen", "3"], "no option --unseen"),
    "option of data": (["data", "build", "aya", "--raw", "x", "--out", "y", "--min-sample", "1"], "--min-samples?"),
    "setting": (["bench", "aya", "fedavg", "--set", "local.learning_rat=1"], "no option 'local.learning_rat'"),
    "setting spelt almost right": (["bench", "aya", "fedavg", "--set", "local.lrr=1"], "did you mean 'local.lr'"),
    "setting without value": (["bench", "aya", "fedavg", "--set", "local.lr"], "KEY=VALUE", "local.lr=1e-4"),
    "second setting without --set": (["bench", "aya", "fedavg", "--set", "local.lr=1", "seed=2"], "write --set before"),
    "constant of another method": (["bench", "aya", "fedavg", "--set", "method.mu=1"], "no option 'method.mu'"),
    "metric": (["bench", "aya", "fedavg", "--metrics", "helout"], "no metric 'helout'", "did you mean 'heldout'"),
    "no metric": (["bench", "aya", "fedavg", "--metrics", ","], "evaluation.metrics", "at least 1"),
    "seed of letters": (["bench", "aya", "fedavg", "--seed", "one"], "--seed", "'one'"),
    "seed below 0": (["bench", "aya", "fedavg", "--seed", "-1"], "--seed", "-1"),
    "number of letters": (["bench", "aya", "fedavg", "--set", "local.lr=fast"], "local.lr", "'fast'", "number"),
    "half a step": (["bench", "aya", "fedavg", "--set", "local.steps=1.5"], "local.steps", "1.5", "integer"),
    "no round": (["bench", "aya", "fedavg", "--set", "federation.rounds=0"], "federation.rounds", "0", "greater"),
    "rate that is not finite": (["bench", "aya", "fedavg", "--set", "local.lr=nan"], "local.lr", "finite"),
    "constant of a wrong type": (["bench", "aya", "fedprox", "--set", "method.mu=big"], "method.mu", "'big'"),
    "constant out of range": (["bench", "aya", "fedprox", "--set", "method.mu=-1"], "method.mu", "-1"),
    "too many clients": (
        ["bench", "aya", "fedavg", "--set", "federation.clients_per_round=7"],
        *("clients_per_round=7", "6 clients", "--set federation.clients_per_round=6"),
    ),
    "no such target": (["bench", "aya", "fedavg", "--set", "lora.targets=q_prj"], "q_prj", "q_proj"),
    "no such split": (["bench", "aya", "fedavg", "--split", "nowhere"], "no split in nowhere", "data build"),
    "no such model folder": (["bench", "aya", "fedavg", "--model", "nowhere"], "MODEL=nowhere", "no such folder"),
    "no such GGUF file": (
        ["bench", "aya", "fedavg", "--model", "models/x.gguf"],
        "MODEL=models/x.gguf",
        "no such file",
    ),
    "no such split, dry run": (
        ["bench", "aya", "fedavg", "--profile", "small", "--split", "nowhere", "--dry-run"],
        "no split in nowhere",
    ),
    "model not in the cache": (["bench", "aya", "fedavg", "--model", "some/model"], "MODEL=some/model", "'mini'"),
    "too few words": (["bench", "aya"], "method"),
    "no command": ([], "COMMAND"),
    "unknown command": (["benhc", "aya", "fedavg"], "'benhc'", "bench"),
}


@pytest.mark.parametrize(("argv", "expected"), [(case[0], case[1:]) for case in COMMANDS.values()], ids=COMMANDS)
def test_a_wrong_command_is_one_line(argv, expected, tiny_split: Split, tmp_path: Path, capsys):
    more = []
    if argv[:1] == ["bench"] and len(argv) > 2:
        more = ["--out", str(tmp_path / "runs")]
        more += [] if "--profile" in argv else ["--profile", "mini"]
        more += [] if "--split" in argv or argv[1] == "chatbot_pa" else ["--split", str(tiny_split.folder)]
        # the mini profile asks for more clients per round than the tiny split has
        more += [] if "clients_per_round" in argv[-1] else ["--set", "federation.clients_per_round=3"]
    assert_refused([*argv, *more], tmp_path, capsys, *expected)


def test_several_wrong_settings_are_all_named_in_the_one_line(tiny_split: Split, tmp_path: Path, capsys):
    argv = words("fedavg", tiny_split.folder, tmp_path, "--set", "local.lr=fast", "--set", "lora.rank=0")
    assert_refused(argv, tmp_path, capsys, "local.lr", "'fast'", "lora.rank")


# --- splits and raw rows


def test_a_split_with_one_byte_changed_is_refused_whichever_file_it_is(tiny_split: Split, tmp_path: Path, capsys):
    names = sorted(path.name for path in tiny_split.folder.iterdir())
    assert len(names) == 7  # three parts, probes, two cards, manifest
    for name in names:
        broken = tmp_path / name
        shutil.copytree(tiny_split.folder, broken)
        content = bytearray((broken / name).read_bytes())
        content[len(content) // 2] ^= 1
        (broken / name).write_bytes(content)
        assert_refused(words("fedavg", broken, tmp_path / "runs"), tmp_path, capsys, name)


def test_a_split_with_a_missing_file_is_refused(tiny_split: Split, tmp_path: Path, capsys):
    broken = tmp_path / "split"
    shutil.copytree(tiny_split.folder, broken)
    (broken / "probes.jsonl").unlink()
    assert_refused(words("fedavg", broken, tmp_path / "runs"), tmp_path, capsys, "probes.jsonl", "missing")


def raw_row(user: int, number: int) -> dict[str, str]:
    return {
        "inputs": f"question {number} of {user}",
        "targets": f"answer {number}",
        "language": "Ukrainian",
        "language_code": "ukr",
        "annotation_type": "original-annotations",
        "user_id": f"user {user}",
    }


ROWS = [raw_row(user, number) for user in range(3) for number in range(12)]


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def without(column: str) -> list[dict[str, str]]:
    return [*ROWS[:5], {key: value for key, value in ROWS[5].items() if key != column}]


RAW: dict[str, tuple[str, Callable[[], bytes], tuple[str, ...]]] = {
    "missing column": ("a.jsonl", lambda: lines(without("targets")).encode(), ("line 6", "no column 'targets'")),
    "missing column of a csv": ("a.csv", lambda: b"inputs,targets\na,b\n", ("a.csv", "no column 'language'")),
    "broken JSON": ("a.jsonl", lambda: (lines(ROWS[:8]) + '{"inputs": \n').encode(), ("line 9", "broken JSON")),
    "broken JSON in gzip": ("a.jsonl.gz", lambda: gzip.compress(lines(ROWS).encode() + b"}"), ("line 37", "JSON")),
    "list instead of object": ("a.jsonl", lambda: b"[1]\n", ("line 1", "list", "not an object")),
    "cut-off gzip": ("a.jsonl.gz", lambda: gzip.compress(lines(ROWS).encode())[:-20], ("cut-off gzip",)),
    "not UTF-8": ("a.jsonl", lambda: b'{"inputs": "\xff"}\n', ("line 1", "UTF-8")),
    "not parquet": ("a.parquet", lambda: b"PAR1 no", ("a.parquet", "parquet")),
    "number instead of text": (
        "a.jsonl",
        lambda: (lines(ROWS[:2]) + json.dumps(ROWS[2] | {"user_id": 7.5}) + "\n").encode(),
        ("row 3", "'user_id'", "float"),
    ),
    "other kind of file": ("a.xlsx", lambda: b"", ("a.xlsx", ".jsonl")),
    "no row": ("a.jsonl", lambda: b"", ("nothing is left of 0 raw rows",)),
}


@pytest.mark.usefixtures("evaluation_sets")
@pytest.mark.parametrize(("name", "content", "expected"), RAW.values(), ids=RAW)
def test_bad_raw_rows_are_one_line_that_says_where(name, content, expected, tmp_path: Path, capsys):
    (tmp_path / name).write_bytes(content())
    argv = ["data", "build", "aya", "--raw", str(tmp_path / name), "--out", str(tmp_path / "split")]
    assert_refused([*argv, "--languages", "ukr", "--min-samples", "5"], tmp_path, capsys, *expected)
    assert not (tmp_path / "split").exists()


@pytest.mark.usefixtures("evaluation_sets")
def test_an_empty_result_says_what_each_filter_removed(tmp_path: Path, capsys):
    (tmp_path / "rows.jsonl").write_text(lines([*ROWS, raw_row(0, 0) | {"inputs": " "}]))
    argv = ["data", "build", "aya", "--raw", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "split")]
    removed = ("nothing is left of 37 raw rows", "empty 1 ")
    assert_refused([*argv, "--languages", "eng"], tmp_path, capsys, *removed, "languages 36 (language not in eng)")
    few = ("min_samples 36", "users with fewer than 13 rows", "the largest user has 12 usable rows")
    assert_refused([*argv, "--languages", "ukr", "--min-samples", "13"], tmp_path, capsys, *removed, *few)
    assert not (tmp_path / "split").exists()
