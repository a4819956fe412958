"""The front door: what it loads, says, refuses and leaves behind, and that it does what the command does."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from api_examples import settings
from bench_runs import outcome, quick, run
from checkout import ROOT
from grid_runs import started_here

import fedllm_bench as fb
from fedllm_bench import api, api_docs
from fedllm_bench.common import hardware, process, progress
from fedllm_bench.config import presets
from fedllm_bench.config.setting_words import setting_words
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.splits import split_from

HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow", "numpy", "pydantic")
SECONDS = 0.1


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)


def small_run(split: Split, **more: object) -> fb.Run:
    options = {"split": split, "metrics": ["heldout"], "settings": settings(), "progress": False, "threads": 1, **more}
    with quick():
        return fb.bench("aya", "fedavg", **options)  # type: ignore[arg-type]


# --- the import


def test_the_import_takes_no_time_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; before = time.process_time(); import fedllm_bench as fb; dir(fb)\n"
        f"print(time.process_time() - before, sorted(sys.modules.keys() & {set(HEAVY)}))"
    )
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert all(done.stdout.split(maxsplit=1)[1] == "[]\n" for done in said)
    assert min(float(done.stdout.split()[0]) for done in said) < SECONDS


def test_every_public_name_is_there_and_no_other() -> None:
    assert [*fb.__all__] == [*api.__all__]
    assert {name for names in api_docs.PARTS.values() for name in names} == set(fb.__all__)
    assert all(vars(api)[name] is getattr(fb, name) for name in fb.__all__ if name != "diversity")
    assert {*fb.__all__} < {*dir(fb)}
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = fb.no_such_name


@pytest.mark.slow
def test_the_function_diversity_can_be_called_after_the_folder_of_that_name_was_loaded() -> None:
    code = (
        "import fedllm_bench as fb; first = callable(fb.diversity); import fedllm_bench.diversity.report as inner\n"
        "try: fb.diversity('nowhere')\nexcept fb.UserError as error: print(first, callable(inner.build), error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True True no split folder or data set 'nowhere'")


def test_the_front_door_knows_no_command() -> None:
    for path in sorted((ROOT / "fedllm_bench").glob("api*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        named = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert named
        assert not [name for name in named if "commands" in name or name.endswith(".cli")]


def test_the_page_is_made_of_the_docstrings() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == api_docs.text(), "python -m fedllm_bench.api_docs > docs/api.md"
    assert "may not break" in page


def test_each_function_tells_what_it_raises_and_shows_an_example() -> None:
    functions = [vars(api)[name] for name in api_docs.PARTS["Functions"]]
    assert len(functions) == 9
    assert all("Raises:\n    UserError" in (inspect.getdoc(each) or "") for each in functions)
    assert all("Example:\n    >>> " in (inspect.getdoc(each) or "") for each in functions)


# --- what is left behind


def test_a_run_is_that_of_the_command_and_nothing_is_printed(tiny_split: Split, tmp_path: Path, capfd) -> None:
    done = small_run(tiny_split)
    assert capfd.readouterr() == ("", "")
    words = [word for key, value in settings().items() for word in ("--set", f"{key}={value}")]
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path / "command", "--metrics", "heldout", *words)
    assert folder.name == done.folder.name
    assert outcome(folder) == outcome(done.folder)
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    assert small_run(tiny_split) == done == fb.open_run(str(done.folder))
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before


def test_progress_goes_to_standard_error(tiny_split: Split, capfd) -> None:
    logging.getLogger().handlers, kept = [], logging.getLogger().handlers
    try:
        with progress.shown(True):
            logging.getLogger("fedllm_bench.api").info("half done")
        with progress.shown(False):
            logging.getLogger("fedllm_bench.api").info("hidden")
        progress.told(True)("a line")
        progress.told(False)("hidden")
    finally:
        logging.getLogger().handlers = kept
    assert capfd.readouterr() == ("", "half done\na line\n")


def test_the_process_is_afterwards_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MPLBACKEND", "module://a.notebook")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    before, threads, logger = dict(os.environ), torch.get_num_threads(), logging.getLogger("fedllm_bench")
    state = (logger.level, list(logger.handlers))
    with process.prepared(), progress.shown(True):
        assert "RANK" not in os.environ
        assert os.environ["MPLBACKEND"] == "module://a.notebook"
        torch.set_num_threads(threads + 1)
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads
    assert (logger.level, logger.handlers) == state


# --- bad input


def bad(name: str, tmp_path: Path) -> object:
    calls = {
        "data set": lambda: fb.bench("ayaa", "fedavg"),
        "method": lambda: fb.bench("aya", "fedproxx"),
        "setting": lambda: fb.bench("aya", "fedavg", settings={"local.lrr": 1}),
        "value": lambda: fb.bench("aya", "fedavg", settings={"local.lr": "high"}),
        "no mapping": lambda: fb.bench("aya", "fedavg", settings=["local.lr=1"]),  # type: ignore[arg-type]
        "object": lambda: fb.bench("aya", "fedavg", settings={"local.lr": object()}),
        "seed": lambda: fb.bench("aya", "fedavg", seed=-1),
        "seeds": lambda: fb.grid("aya", seeds=[0.5]),  # type: ignore[list-item]
        "jobs": lambda: fb.grid("aya", jobs=0),
        "profile": lambda: fb.bench("aya", "fedavg", profile="minni"),
        "split": lambda: fb.load_split("nowhere"),
        "source": lambda: fb.load_split("aya", "hub:nobody"),
        "run": lambda: fb.open_run(tmp_path),
        "no run": lambda: fb.open_run("nowhere"),
        "answers": lambda: fb.evaluate(tmp_path, ["mini"]),
        "side": lambda: fb.compare(tmp_path, tmp_path),
        "section": lambda: fb.diversity("aya", sections=["lenght"]),
        "device": lambda: fb.diversity("aya", device="gpu"),
        "runs": lambda: fb.submit([], team="Lab", tuning="none"),
    }
    return calls[name]()


CASES = {
    "data set": "no dataset 'ayaa'; did you mean 'aya'",
    "method": "did you mean 'fedprox'",
    "setting": "no option 'local.lrr'.*did you mean 'local.lr'",
    "value": "local.lr .*got 'high', it should be a valid number",
    "no mapping": 'give a mapping such as {"local.lr"',
    "object": "settings: local.lr: got <object",
    "seed": "seed: got -1; give a whole number",
    "seeds": "seeds: got 0.5; give a whole number",
    "jobs": "jobs: got 0; give a whole number, 1 or more",
    "profile": "did you mean 'mini'",
    "split": "no split folder or data set 'nowhere'",
    "source": "is not hub:ORG/NAME@REV",
    "run": "there is no config.json; give a run folder",
    "no run": "nowhere: no such folder; give a run folder",
    "answers": "there is no config.json; give a run folder",
    "side": "there is no config.json; give a run folder",
    "section": "no section 'lenght'; did you mean 'length'",
    "device": "no device 'gpu'",
    "runs": "runs: there is none",
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    with pytest.raises(fb.UserError, match=CASES[case]) as caught:
        bad(case, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_option_that_does_not_exist_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match="no option 'profil'; there are profile"):
        fb.bench("aya", "fedavg", profil="mini")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'sed'"):
        fb.diversity("aya", sed=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'uri'"):
        fb.submit("runs", team="Lab", uri="")  # type: ignore[call-arg]


# --- settings


def test_a_setting_as_a_value_is_the_same_as_in_words() -> None:
    given = {
        "local.lr": np.float32(0.5),
        "federation.rounds": np.int64(3),
        "local.optimizer": "sgd",
        "local.gradient_checkpointing": False,
        "lora.targets": ("q_proj", "v_proj"),
        "model.revision": "0123",
        "data.clients": None,
        "local.eps": 1e-9,
    }
    config = presets.load("aya", "fedavg", "mini", setting_words(given))
    assert (config.local.lr, config.federation.rounds, config.local.optimizer) == (0.5, 3, "sgd")
    assert (config.lora.targets, config.model.revision, config.data.clients) == (("q_proj", "v_proj"), "0123", None)
    assert (config.local.eps, config.local.gradient_checkpointing) == (1e-9, False)
    words = ("local.lr=.5", "federation.rounds=3", "local.optimizer=sgd", "local.gradient_checkpointing=false")
    more = ("lora.targets=q_proj,v_proj", "model.revision=0123", "data.clients=none", "local.eps=1e-9")
    assert presets.load("aya", "fedavg", "mini", (*words, *more)).hash == config.hash
    assert setting_words(None) == ()


# --- splits and runs


def test_a_split_gives_the_rows_of_a_client_and_all_of_them(tiny_split: Split) -> None:
    frame = tiny_split.to_pandas()
    assert set(frame.part) == {"train", "heldout", "unseen"}
    assert len(frame) == sum(len(tiny_split.rows(part)) for part in ("train", "heldout", "unseen"))
    first = tiny_split.client_ids[0]
    rows = [row for row in tiny_split.rows("train") if row.client_id == first]
    client = tiny_split.client(first)
    assert client.train["row_id"][:] == [row.row_id for row in rows]
    assert client.train[0]["messages"] == list(rows[0].messages)
    assert set(client.heldout["split"]) == {"heldout"}
    unseen = tiny_split.client(tiny_split.manifest.unseen[0].id)
    assert (len(unseen.train), len(unseen.heldout)) == (0, tiny_split.manifest.unseen[0].heldout)
    with pytest.raises(fb.UserError, match="no client 'nobody'"):
        tiny_split.client("nobody")
    with pytest.raises(fb.UserError, match="no part 'test'"):
        tiny_split.to_pandas("test")  # type: ignore[arg-type]


def test_pairs_of_answers_are_rows_too(pair_split: Split) -> None:
    client = pair_split.client(pair_split.client_ids[0])
    assert {"prompt", "chosen", "rejected"} < set(client.train.column_names)
    assert len(pair_split.to_pandas("heldout")) == len(pair_split.preference_rows("heldout"))


def test_a_source_is_a_split_or_a_mirror_and_must_be_of_the_data_set(tiny_split: Split, tmp_path: Path) -> None:
    from fedllm_bench.data.fetch.mirror import publish

    assert split_from("aya", str(tiny_split.folder)) == tiny_split == fb.load_split(tiny_split.folder)
    with pytest.raises(fb.UserError, match="holds the data set 'aya', not 'wildchat'"):
        fb.load_split("wildchat", tiny_split.folder)
    publish(tiny_split.folder, str(tmp_path / "mirror"))
    fetched = fb.load_split("aya", tmp_path / "mirror", out=tmp_path / "mine")
    assert (fetched.hash, fetched.folder) == (tiny_split.hash, tmp_path / "mine")
    (tmp_path / "mirror" / "index.json").unlink()
    assert fb.load_split("aya", tmp_path / "mirror", out=tmp_path / "mine") == fetched  # opened there from then on


def test_a_run_that_has_not_ended_is_none(tiny_split: Split, tmp_path: Path) -> None:
    done = small_run(tiny_split)
    results = done.folder / "results.json"
    text = results.read_text(encoding="utf-8")
    results.write_text(text.replace('"schema_version": 5', '"schema_version": 4711'))
    with pytest.raises(fb.UserError, match=r"results\.json: .*schema_version.* give a run folder"):
        fb.open_run(done.folder)
    results.unlink()
    with pytest.raises(fb.UserError, match=r"there is no results\.json; give a run folder"):
        fb.open_run(done.folder)
    with pytest.raises(fb.UserError, match="there is no results"):
        fb.evaluate(done.folder)


def test_cells_of_a_grid_that_fail_are_told_and_a_grid_without_any_is_an_error(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    options = {"split": tiny_split, "metrics": "heldout", "settings": settings(), "progress": False}
    with quick():
        started_here(monkeypatch, lambda task: task.method == "fedprox")
        table = fb.grid("aya", ["fedavg", "fedprox"], [0], **options)  # type: ignore[arg-type]
        assert list(table.failed) == [("fedprox", 0)]
        assert [run.folder.parent.name for run in table.runs] == ["fedavg"]
        assert set(table.to_pandas().method) == {"base", "fedavg"}
        assert table.text.startswith("mini-aya")
        with pytest.raises(RuntimeError, match="no cell of the grid has results: RuntimeError: the disk burns"):
            fb.grid("aya", ["fedprox"], [0], **options)  # type: ignore[arg-type]
        started_here(monkeypatch, lambda task: True, code=2)
        with pytest.raises(fb.UserError, match="no cell of the grid has results"):
            fb.grid("aya", ["fedprox"], [0], **options)  # type: ignore[arg-type]
