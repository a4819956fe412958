"""Plugins from the command line: the commands of docs/plugins.md, resuming, and what lies in a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import TINY, folder_of, quick, run, words
from plugin_docs import COMMANDS, FILES, written

from fedllm_bench import cli
from fedllm_bench.common import files, hardware
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.grid import Request

METRICS = ("--metrics", "heldout,first_word")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "num_threads", lambda: 1)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page and rows for its data set."""
    folder = tmp_path_factory.mktemp("user")
    written(folder)
    rows = [
        {"shop": f"shop-{shop}", "question": f"What is {n} and {n + shop}?", "answer": f"It is {2 * n + shop}."}
        for shop in range(6)
        for n in range(8)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def done(place: Path, tiny_split: Split) -> Path:
    """A finished run of the page's method with its metric, and answers to the mini world's questions."""
    assert cli.main(_bench(place, tiny_split)) == 0
    folder = folder_of("my_dyn", place / "runs")
    assert cli.main(["answer", str(folder), "--metrics", "mini"]) == 0
    return folder


def _bench(place: Path, split: Split) -> list[str]:
    plugins = [word for name in ("my_method.py", "my_metric.py") for word in ("--plugin", str(place / name))]
    return words("my_dyn", split.folder, place / "runs", *METRICS, *plugins)


def _as_here(command: list[str], done: Path, split: Split) -> list[str]:
    """A command of the page on the tiny split, with a run in place of RUN."""
    found = [str(done) if word == "RUN" else word for word in command]
    if command[0] == "bench" or command[0] == "grid":
        found += [] if "--split" in command else ["--split", str(split.folder)]
        found += [word for setting in TINY for word in ("--set", setting)]
    return found


def test_the_page_has_a_command_for_each_kind():
    assert {command[0] for command in COMMANDS} == {"bench", "grid", "evaluate", "data", "judge"}
    named = {word for command in COMMANDS for word in command if word.endswith(".py")}
    assert named == FILES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, command in enumerate(COMMANDS) if command[0] != "grid"])
def test_a_command_of_the_page_runs_as_it_stands_there(
    number: int, place: Path, done: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    assert cli.main(_as_here(COMMANDS[number], done, tiny_split)) == 0


@pytest.mark.slow
def test_the_grid_of_the_page_runs_with_the_plugin_in_its_processes(
    place: Path, done: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(place)
    (command,) = [command for command in COMMANDS if command[0] == "grid"]
    for _ in range(2):
        assert cli.main(_as_here(command, done, tiny_split)) == 0
    assert "all finished before" in capsys.readouterr().out


def test_the_words_of_a_cell_name_the_plugins():
    request = Request(
        dataset="aya", methods=("fedavg",), seeds=(0,), profile="mini", out=Path("runs"), plugins=("a.py", "a/x.py")
    )
    assert request.words("fedavg", 0)[-2:] == ("--plugin=a.py", "--plugin=a/x.py")


# --- the run folder


def test_a_run_names_its_plugins_and_keeps_a_copy_of_each(done: Path, place: Path):
    used = files.read_json(done / "config.json")["plugins"]
    assert [(one["name"], one["gives"]) for one in used] == [
        ("my_method.py", ["METHODS:my_dyn"]),
        ("my_metric.py", ["METRICS:first_word"]),
    ]
    for one in used:
        copy = done / "plugins" / one["name"]
        assert copy.read_bytes() == (place / one["name"]).read_bytes()
        assert files.sha256_file(copy) == one["sha256"]
    results = files.read_json(done / "results.json")
    assert results["metrics"]["first_word"]["version"] == f"1+my_metric.py-{used[1]['sha256'][:10]}"


def test_the_method_of_the_page_trains_the_same_adapter_as_the_one_of_the_suite(
    done: Path, tiny_split: Split, tmp_path: Path
):
    same = run("feddyn", tiny_split.folder, tmp_path, "--metrics", "heldout", "--set", "method.alpha=0.03")
    name = "adapter/adapter_model.safetensors"
    assert (same / name).read_bytes() == (done / name).read_bytes()


def test_the_same_command_shows_a_finished_run_at_once_also_with_the_copies(
    done: Path, place: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with monkeypatch.context() as patch:
        patch.setattr("fedllm_bench.pipeline.stages.run_cell", None)
        assert cli.main(_bench(place, tiny_split)) == 0
        command = [word.replace(str(place), str(done / "plugins")) if word.endswith(".py") else word
                   for word in _bench(place, tiny_split)]  # fmt: skip
        assert cli.main(command) == 0
    assert capsys.readouterr().out.count("Finished before") == 2


def test_a_changed_file_gives_another_run_folder(
    done: Path, place: Path, tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changed = tmp_path / "my_method.py"
    changed.write_text(FILES["my_method.py"].replace("# what the server keeps", "# what it keeps"), encoding="utf-8")
    opened: list[Cell] = []
    monkeypatch.setattr("fedllm_bench.pipeline.bench_run.finish", lambda cell, starting: opened.append(cell))
    monkeypatch.setattr("fedllm_bench.commands.bench._show", lambda *_: None)
    command = [str(changed) if word == str(place / "my_method.py") else word for word in _bench(place, tiny_split)]
    assert cli.main(command) == 0
    assert opened[0].folder.parent == done.parent
    assert opened[0].folder != done


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("my_method.py", "no method 'my_dyn'"), ("my_metric.py", "no metric 'first_word'")],
)
def test_without_its_plugin_a_run_gets_one_line(
    left_out: str, said: str, done: Path, place: Path, tiny_split: Split, capsys: pytest.CaptureFixture[str]
):
    command = _bench(place, tiny_split)
    where = command.index(str(place / left_out))
    capsys.readouterr()
    assert cli.main([*command[: where - 1], *command[where + 1 :]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "give its file with --plugin FILE.py" in line


def test_a_report_with_a_metric_of_a_plugin_is_not_made_again_without_it(
    done: Path, place: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["report", str(done), "--plugin", str(place / "my_answers.py")]) == 0
    assert (done / "plugins" / "my_answers.py").read_text(encoding="utf-8") == FILES["my_answers.py"]
    before = (done / "evaluation.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["report", str(done)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has the metric one_word of the plugin my_answers.py; give --plugin {done}/plugins/my_answers.py" in line
    assert cli.main(["report", str(done), "--plugin", f"{done}/plugins/my_answers.py"]) == 0
    assert (done / "evaluation.json").read_bytes() == before


BROKEN = {  # what stands in place of the right line -> what is said
    "return 1": "gave int; its `score` should give a list of Score",
    "return [self.score_of(items[0], '')]": "gave 1 score for ",
    "import sys; sys.exit(3)": "line 22: SystemExit: 3; correct the plugin",
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_metric_that_gives_no_right_scores_is_one_line(
    wrong: str, place: Path, tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = tmp_path / "my_metric.py"
    line = "return [self.score_of(item, answer) for item, answer in zip(items, given, strict=True)]"
    broken.write_text(FILES["my_metric.py"].replace(line, wrong), encoding="utf-8")
    command = words("fedavg", tiny_split.folder, tmp_path / "runs", *METRICS, "--plugin", str(broken))
    assert cli.main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fedllm-bench: the metric first_word (1+my_metric.py-")
    assert BROKEN[wrong] in said
