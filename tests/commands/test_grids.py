"""`fedllm-bench grid` on several data sets: one page over all of them, and nothing that fails stops the rest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, assert_refused, code_of, quick
from grid_runs import grid_words, started_here

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.mini.dataset import BUILDERS
from fedllm_bench.mini.users import Population
from fedllm_bench.report.grid import summary
from fedllm_bench.report.grid.table import markdown
from fedllm_bench.runs import cell
from fedllm_bench.runs.grid import parse_datasets


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def splits(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    population = Population(seed=3, num_users=6, num_below_cut=4, num_names=8)
    return {"aya": tiny_split, "wildchat": BUILDERS["wildchat"](population, tmp_path_factory.mktemp("s") / "tiny")}


def worlds_of(splits: dict[str, Split], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data sets that can be opened, and the errors of those that cannot; what is changed here is seen at once."""
    known: dict[str, Any] = {
        **splits,
        "chatbot_pa": UserError("chatbot_pa: not today"),
        "chatbot_it": RuntimeError("the archive\nis torn"),
    }

    def resolve(config: Any) -> Split:
        found = known[config.dataset]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    patch.setattr(cell, "resolve_split", resolve)
    return known


@pytest.fixture
def worlds(splits: dict[str, Split], monkeypatch) -> dict[str, Any]:
    return worlds_of(splits, monkeypatch)


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_folder), "--metrics", "heldout", "--seeds", "0", "--methods", "local,fedavg,fedprox")


def argv_of(datasets: str, out: Path, *more: str) -> list[str]:
    return grid_words(None, out, *more, dataset=datasets)


@pytest.fixture(scope="module")
def done(splits, less, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int]]]:
    """The folder of all runs after a grid on two data sets, and the cells that were started for it."""
    out = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        worlds_of(splits, patch)
        started = started_here(patch, lambda task: False)
        assert cli.main(argv_of("aya,wildchat", out, *less)) == 0
    return out, started


@pytest.fixture
def out(done, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(done[0], tmp_path / "runs"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aya", ("aya",)),
        ("anything", ("anything",)),  # refused later, as it always was
        ("wildchat, aya", ("wildchat", "aya")),
        ("chatbot_arena,aya", ("chatbot_it", "aya")),
        ("all", tuple(presets.dataset_names())),
        ("fs_llm", ("fed_alpaca", "fed_code_alpaca", "fed_dolly", "fed_gsm8k")),
        ("flowertune,aya", (*presets.training_sets()["flowertune"], "aya")),
    ],
)
def test_datasets_are_as_given_and_all_are_all(text: str, expected: tuple[str, ...]):
    assert parse_datasets(text) == expected
    assert len(parse_datasets("all")) >= 5


BAD = {
    "aya,ayaa": "no dataset 'ayaa'",
    "aya,aya": "aya stands twice",
    "aya,,wildchat": "a name is missing",
    "chatbot_it,chatbot_arena": "chatbot_it stands twice",
    "all,aya": "aya stands twice",
}


@pytest.mark.parametrize(("text", "part"), BAD.items())
def test_bad_names_are_one_clear_line(text: str, part: str, tmp_path: Path, capsys):
    assert_refused(argv_of(text, tmp_path), tmp_path, capsys, part)


@pytest.mark.parametrize(("more", "part"), [
    (("--split", "somewhere"), "--split somewhere: it is of one data set"),
    (("--methods", "fedavgg"), "no method 'fedavgg'"),
    (("--methods", "fedavg", "--set", "fedprox:method.mu=1"), "METHOD: must be one of --methods"),
])  # fmt: skip
def test_what_is_wrong_for_all_is_refused_at_once(more, part, tmp_path: Path, capsys):
    assert_refused(argv_of("aya,wildchat", tmp_path, *more), tmp_path, capsys, part)


def test_two_data_sets_are_two_grids_and_a_page_and_are_shown_again_at_once(
    worlds, less, done, out: Path, capsys, monkeypatch
):
    assert done[1] == [("local", 0), ("fedavg", 0), ("fedprox", 0)] * 2
    (folder,) = out.glob("grids-*")
    page, found = (folder / "summary.md").read_text(), files.read_json(folder / "summary.json")
    started = started_here(monkeypatch, lambda task: False)
    assert cli.main(argv_of("aya,wildchat", out, *less)) == 0
    shown = capsys.readouterr().out
    assert [each["dataset"] for each in found["datasets"]] == ["mini-aya", "mini-wildchat"]
    assert found["failed"] == []
    for each in found["datasets"]:
        payload = files.read_json(out / each["grid"] / "grid.json")
        assert (out / each["grid"] / "table.txt").read_text() in shown
        assert markdown(payload).partition("\n")[2].strip() in page
        rows = payload["metrics"]["heldout"]["methods"]
        assert each["methods"].keys() == rows.keys() == {"base", "local", "fedavg", "fedprox"}
        for name, row in rows.items():
            expected = {"mean": row["mean"], "difference": row["differences"].get("fedavg")}
            assert each["methods"][name] == expected
            assert (expected["difference"] is None) == (name == "fedavg")
    assert (folder / "summary.txt").read_text().strip() in shown
    assert started == []
    assert (folder / "summary.md").read_text() == page
    assert list(out.glob("grids-*")) == [folder]


@pytest.mark.slow
def test_what_fails_is_listed_with_reason_and_command_and_only_that_is_tried_again(
    worlds, splits, less, out: Path, capsys, monkeypatch
):
    for path in [*out.glob("*/fedprox"), *out.glob("grids-*"), *out.glob("*/grid-*")]:
        shutil.rmtree(path)
    started = started_here(monkeypatch, lambda task: task.key == ("fedprox", 0), code=-9)
    argv = argv_of("chatbot_it,aya,chatbot_pa,wildchat", out, *less)
    assert code_of(argv) == 1
    assert started == [("fedprox", 0)] * 2  # of aya and of wildchat
    shown = capsys.readouterr().out
    (path,) = out.glob("grids-*/summary.json")
    failed = files.read_json(path)["failed"]
    reasons = {(each["dataset"], each["method"]): each["reason"] for each in failed}
    killed = "ended by SIGKILL (was there enough memory?)"
    not_today = {("chatbot_pa", method): "chatbot_pa: not today" for method in ("local", "fedavg", "fedprox")}
    assert reasons == {
        **{("chatbot_it", method): "RuntimeError: the archive is torn" for method in ("local", "fedavg", "fedprox")},
        **not_today,
        **{(name, "fedprox"): killed for name in ("mini-aya", "mini-wildchat")},
    }
    for each in failed:
        assert f"{each['dataset']} {each['method']} seed 0: {each['reason']}\n    {each['command']}\n" in shown
        args = cli.build_parser().parse_args(each["command"].split()[1:])
        assert (args.method, args.seed, args.overrides) == (each["method"], 0, list(TINY))
        assert args.dataset == each["dataset"].removeprefix("mini-")
    assert "8 cells failed" in shown
    worlds["chatbot_it"] = splits["aya"]  # repaired
    started = started_here(monkeypatch, lambda task: False)
    assert code_of(argv) == 1
    assert started == [("local", 0), ("fedavg", 0), ("fedprox", 0), ("fedprox", 0), ("fedprox", 0)]
    failed = files.read_json(path)["failed"]  # of the same page
    assert {(each["dataset"], each["method"]): each["reason"] for each in failed} == not_today


@pytest.mark.slow
def test_a_method_that_cannot_run_fails_alone(worlds, less, tmp_path: Path, capsys, monkeypatch):
    started = started_here(monkeypatch, lambda task: False)
    methods = ("--methods", "fedavg,scaffold", "--set", "scaffold:federation.weighting=examples")
    assert code_of(argv_of("aya,wildchat", tmp_path, *less[:6], *methods)) == 1
    assert started == [("fedavg", 0)] * 2
    (path,) = tmp_path.glob("grids-*/summary.json")
    failed = files.read_json(path)["failed"]
    assert [(each["dataset"], each["method"]) for each in failed] == [
        ("mini-aya", "scaffold"),
        ("mini-wildchat", "scaffold"),
    ]
    assert all(
        "federation.weighting=examples: scaffold is defined for uniform only" in each["reason"] for each in failed
    )
    assert not list(tmp_path.glob("*/scaffold"))


def test_where_no_data_set_can_be_opened_the_request_was_wrong(worlds, less, tmp_path: Path, capsys):
    assert code_of(argv_of("chatbot_it,chatbot_pa", tmp_path, *less)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "chatbot_it: RuntimeError: the archive is torn; chatbot_pa: chatbot_pa: not today" in err
    assert not list(tmp_path.rglob("summary.*"))


def test_a_grid_that_another_process_runs_is_passed_over(worlds, less, out: Path, capsys):
    from filelock import FileLock

    (folder,) = (out / "mini-aya").glob("grid-*")
    with FileLock(folder / ".lock"):
        assert code_of(argv_of("aya,wildchat", out, *less)) == 1
    (path,) = out.glob("grids-*/summary.json")
    found = files.read_json(path)
    assert {(each["dataset"], each["reason"]) for each in found["failed"]} == {
        ("mini-aya", "another process is running this grid")
    }
    assert found["datasets"][1]["methods"]


def test_five_data_sets_and_all_methods_fit_on_a_terminal():
    row = {"mean": 0.203, "difference": {"mean": -0.4971, "ci_low": -0.6, "ci_high": -0.4, "verdict": "clear"}}
    names = ("base", "local", "fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "central")
    sets = [
        {
            "dataset": f"mini-{name}",
            "metric": "heldout",
            "higher_is_better": False,
            "methods": dict.fromkeys(names, row),
        }
        for name in presets.dataset_names()
    ]
    sets[0]["methods"] = {**sets[0]["methods"], "fedprox": {"mean": 1.0, "difference": None}}
    del sets[1]["methods"]["fedadam"]
    found = {"datasets": sets, "methods": list(names[1:]), "seeds": [0, 1, 2], "failed": []}
    lines = summary.terminal(found).splitlines()
    assert len(sets) >= 5
    assert max(map(len, lines)) <= 110
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] and line.split()[0] in names}
    assert table.keys() == set(names)
    assert table["fedavg"] == ["(0.203)"] * len(sets)
    assert table["fedprox"][0] == "-"
    assert "failed" in table["fedadam"]
    assert table["local"] == ["-0.497", "●"] * len(sets)
