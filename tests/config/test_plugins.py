"""Plugins: what a file puts into the registries, that it goes out again, and broken ones in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plugin_docs import FILES, written

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import plugins as state
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig, check
from fedllm_bench.data.build.pipelines import PIPELINES, load_pipeline
from fedllm_bench.evaluation.judges.preset import judge_names, load_judge
from fedllm_bench.evaluation.judges.questions import Question, Slot
from fedllm_bench.evaluation.judges.rule import RuleJudge
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.methods import METHODS
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.plugins import VARIABLE, in_use
from fedllm_bench.runs.cell import Cell, resolve_split, settings_hash

METHOD = """\
from dataclasses import dataclass
from fedllm_bench.methods.base import FedAvg

@dataclass(frozen=True, kw_only=True)
class Half(FedAvg):
    eta: float = 0.5

METHODS = {"half": Half}
"""


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(*paths: Path) -> str:
    with pytest.raises(UserError) as caught, in_use(paths):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mini(method: str, *overrides: str, metrics: str | None = None) -> RunConfig:
    return presets.load("aya", method, "mini", overrides, metrics=metrics)


# --- what is registered


def test_every_kind_is_there_inside_and_gone_outside(tmp_path: Path):
    files = written(tmp_path)
    assert len(files) == len(FILES) == 5
    before = [dict(table) for table in (METHODS, METRICS, OPEN_METRICS, PIPELINES)]
    with in_use(files):
        assert METHODS["my_dyn"].__name__ == "MyDyn"
        assert METRICS["first_word"].info.version.startswith("1+my_metric.py-")
        assert OPEN_METRICS["one_word"].info.version.startswith("1+my_answers.py-")
        assert load_pipeline("my_data").build.declaration.version.startswith("1+my_data.py-")
        assert {"strict", "my_server"} <= set(judge_names())
        assert load_judge("my_server").base_url == "http://localhost:8000/v1"
        assert {"my_dyn"} <= set(presets.method_names())
        assert {"my_data"} <= set(presets.dataset_names())
    assert [dict(table) for table in (METHODS, METRICS, OPEN_METRICS, PIPELINES)] == before
    assert not state.GIVEN
    assert not state.PRESETS
    assert "strict" not in judge_names()


def test_a_judge_that_is_a_function_is_asked_and_its_file_is_in_its_id(tmp_path: Path):
    (path,) = written(tmp_path, "my_judge.py")
    slot = Slot("item", 1)
    with in_use([path]):
        preset = load_judge("strict")
        judge = RuleJudge(preset)
        right = judge.stored(Question(slot, right="yes", given=("yes",)))
        assert right is not None
        assert right.text == "Rating: [[10]]"
        assert judge.stored(Question(slot, given=("yes",))) is None
    with pytest.raises(UserError, match=r"give --plugin my_judge.py"):
        judge.stored(Question(slot, right="yes", given=("yes",)))
    path.write_text(FILES["my_judge.py"].replace("[[2]]", "[[3]]"), encoding="utf-8")
    with in_use([path]):
        assert load_judge("strict").id != preset.id


def test_files_of_the_environment_are_in_use_and_one_given_twice_counts_once(tmp_path: Path, monkeypatch):
    first, second = plugin(tmp_path, METHOD), plugin(tmp_path, METHOD.replace("half", "quarter"), "other.py")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(first), str(second)]))
    with in_use([first]):
        assert {"half", "quarter"} <= METHODS.keys()
        with in_use([first]):  # by an API inside of a command
            assert "half" in METHODS
        assert "half" in METHODS


def test_presets_stand_over_the_defaults_of_the_class_and_explain_names_the_file(tmp_path: Path):
    with in_use([plugin(tmp_path, METHOD)]):
        assert mini("half").method.constants == {"eta": 0.5}
        assert mini("half", "method.eta=0.25").method.constants == {"eta": 0.25}
    text = METHOD + 'PRESETS = {"half": {"method": {"eta": 0.1}, "federation": {"failure_limit": 0.25}}}\n'
    with in_use([plugin(tmp_path, text)]):
        config = mini("half")
        assert (config.method.constants, config.federation.failure_limit) == ({"eta": 0.1}, 0.25)
        assert presets.explain("aya", "half", "mini")["method.eta"] == "PRESETS of mine.py"


# --- the hash of a run


def test_without_a_plugin_a_run_has_the_name_that_it_always_had(tmp_path: Path):
    config = mini("fedprox")
    assert "plugins" not in config.to_dict()
    cell = Cell(config, resolve_split(config), tmp_path, threads=1)
    assert cell.folder.name == "s0-5e68895ff8"
    with in_use([plugin(tmp_path, METHOD)]):  # given, and nothing of it is needed
        assert mini("fedprox") == config


def test_a_run_that_needs_a_plugin_names_file_and_hash_and_a_changed_file_is_another_run(tmp_path: Path):
    hashes = []
    for text in (METHOD, METHOD + "# changed\n"):
        with in_use([plugin(tmp_path, text)]):
            config = mini("half")
        assert check(config.to_dict()) == config
        (used,) = config.plugins
        assert (used.name, used.gives, len(used.sha256)) == ("mine.py", ("METHODS:half",), 64)
        hashes.append(settings_hash(config, "split", "base"))
    assert len(set(hashes)) == 2


def test_the_baseline_needs_a_metric_and_not_the_method(tmp_path: Path):
    files = [plugin(tmp_path, METHOD), *written(tmp_path, "my_metric.py")]
    with in_use(files):
        config = mini("half", metrics="heldout,first_word")
        cell = Cell(config, resolve_split(config), tmp_path, threads=1)
        assert [used.name for used in config.plugins] == ["mine.py", "my_metric.py"]
        assert [used.name for used in cell.baseline.config.plugins] == ["my_metric.py"]
        assert cell.baseline.hash == Cell(mini("local", metrics="heldout,first_word"), cell.split, tmp_path, 1).hash


# --- broken ones

BROKEN = {
    "syntax": ("METHODS = {\n", "line 1: SyntaxError"),
    "import": ("import nothing_of_this_name\nMETHODS = {}\n", "line 1: ModuleNotFoundError"),
    "error": ("METHODS = {}\n\nx = 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "exit": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "null byte": ("METHODS = {}\0\n", "it is a binary file; give a file of Python source"),
    "empty": ("x = 1\n", "it has none of METHODS, METRICS, PIPELINES, JUDGES"),
    "presets alone": ("PRESETS = {}\n", "it has none of"),
    "no dict": ("METHODS = [1]\n", "line 1: METHODS: it should be a dict"),
    "no method": ("\nMETHODS = {\n    'a': 1,\n    'mine': 2,\n}\n", "line 3: METHODS['a']: it should be a class"),
    "no dataclass": (
        METHOD.replace("@dataclass(frozen=True, kw_only=True)\n", ""),
        "line 7: METHODS['half']: write @data",
    ),
    "taken": (METHOD.replace('"half"', '"fedavg"'), "line 8: METHODS['fedavg']: this name is taken"),
    "bad name": (METHOD.replace('"half"', '"My Method"'), "METHODS['My Method']: give a name of small letters"),
    "no metric": ("METRICS = {'mine': len}\n", "METRICS['mine']: it should be an OpenMetric, or an object with"),
    "a metric's class": (
        FILES["my_metric.py"].replace("FirstWord()}", "FirstWord}"),
        "METRICS['first_word']: it should be an OpenMetric, or an object",
    ),
    "another name": (FILES["my_metric.py"].replace('{"first_word"', '{"other"'), "a MetricInfo with name='other'"),
    "taken metric": (FILES["my_metric.py"].replace("first_word", "heldout"), "METRICS['heldout']: this name is taken"),
    "benchmark": (FILES["my_answers.py"].replace('benchmark="mini"', 'benchmark="x"'), "no benchmark 'x'; there are"),
    "no pipeline": ("PIPELINES = {'mine': 1}\n", "PIPELINES['mine']: it should be a Builder"),
    "taken data": ("PIPELINES = {'aya': 1}\n", "PIPELINES['aya']: this name is taken"),
    "another data set": (FILES["my_data.py"].replace('{"my_data"', '{"mine"'), "should have dataset='mine'"),
    "no judge": ("JUDGES = {'mine': 1}\n", "JUDGES['mine']: it should be a function of a question, or a dict"),
    "a judge's key": ("JUDGES = {'mine': {'modell': 'm'}}\n", "line 1: JUDGES['mine']: model"),
    "taken judge": ("JUDGES = {'local': len}\n", "JUDGES['local']: this name is taken"),
    "preset of nothing": (METHOD + "PRESETS = {'other': {}}\n", "PRESETS['other']: give the name of one of"),
    "no preset": (METHOD + "PRESETS = {'half': {'eta': 1}}\n", "PRESETS['half']: it should be a dict of sections"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_one_line_with_file_and_line(name: str, tmp_path: Path):
    text, expected = BROKEN[name]
    found = refusal(plugin(tmp_path, text))
    assert found.startswith(f"--plugin {tmp_path / 'mine.py'}")
    assert expected in found
    assert "half" not in METHODS
    assert not state.GIVEN


def test_a_file_that_is_none_is_one_line(tmp_path: Path):
    assert "No such file" in refusal(tmp_path / "missing.py")
    assert "directory" in refusal(tmp_path)
    assert "ends in .py" in refusal(plugin(tmp_path, METHOD, "mine.txt"))
    assert "256 KiB" in refusal(plugin(tmp_path, METHOD + "#" * 2**18))
    (tmp_path / "other").mkdir()
    twin = plugin(tmp_path / "other", METHOD + "# another\n")
    assert "another plugin of the name mine.py" in refusal(plugin(tmp_path, METHOD), twin)
    twin = plugin(tmp_path, METHOD, "twin.py")
    assert "METHODS['half']: this name is taken" in refusal(plugin(tmp_path, METHOD), twin)


def test_the_command_says_it_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = plugin(tmp_path, "METHODS = {\n")
    assert cli.main(["bench", "aya", "half", "--profile", "mini", "--plugin", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fedllm-bench: --plugin {path}: line 1: SyntaxError")


def test_a_plugin_that_interrupts_is_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = plugin(tmp_path, "METHODS = {}\nraise KeyboardInterrupt\n")
    assert cli.main(["bench", "aya", "fedavg", "--profile", "mini", "--plugin", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fedllm-bench: --plugin {path}: line 2: KeyboardInterrupt; correct the file"


def test_a_path_that_is_no_file_is_one_line(tmp_path: Path):
    loop, pipe = tmp_path / "loop.py", tmp_path / "pipe.py"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    assert "symbolic links; give a Python file" in refusal(loop)
    assert refusal(pipe) == f"--plugin {pipe}: it is a pipe, socket or device; give a Python file of your own"
    assert refusal(tmp_path) == f"--plugin {tmp_path}: it is a directory; give a Python file of your own"
    assert "No such file" in refusal(Path("~nobody_of_this_name"))
    with pytest.raises(UserError, match="--plugin '': the path is empty; give a Python file"), in_use([""]):
        pass


def test_a_file_that_the_variable_names_is_blamed_on_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing, broken = tmp_path / "missing.py", plugin(tmp_path, "METHODS = {\n")
    for path in (missing, broken):
        monkeypatch.setenv(VARIABLE, str(path))
        found = refusal()
        assert found.startswith(f"FEDLLM_BENCH_PLUGINS {path}: ")
        assert "--plugin" not in found


def test_explain_has_a_space_before_the_origin_of_plugins(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = plugin(tmp_path, METHOD)
    assert cli.main(["bench", "aya", "half", "--profile", "mini", "--explain", "--plugin", str(path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("plugins = ")]
    assert line.endswith("}] command")


def test_an_unknown_setting_of_a_plugin_names_its_file(tmp_path: Path):
    text = METHOD + "PRESETS = {'half': {'local': {'rate': 1}}}\n"
    with (
        in_use([plugin(tmp_path, text)]),
        pytest.raises(UserError, match=r"no option 'local.rate' \(PRESETS of mine.py\)"),
    ):
        mini("half")


# --- installed packages


def distribution(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, **modules: str) -> None:
    """A package as an installer leaves it, on sys.path."""
    about = folder / "example_methods-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: example-methods\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(points)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_an_installed_package_offers_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    points = "[fedllm_bench.methods]\nhalf = example_half:Half\n\n[fedllm_bench.presets]\nhalf = example_half:PRESET\n"
    points += "\n[fedllm_bench.judges]\nstrict = example_judge:strict\n"
    text = METHOD + "PRESET = {'method': {'eta': 0.75}}\n"
    distribution(tmp_path, monkeypatch, points, example_half=text, example_judge=FILES["my_judge.py"])
    with in_use():
        config = mini("half")
        assert config.method.constants == {"eta": 0.75}
        (used,) = config.plugins
        assert (used.name, used.package) == ("example_half.py", "example-methods 1.5")
        assert state.GIVEN["METHODS", "half"].content.decode() == text
        assert "strict" in judge_names()
    assert "half" not in METHODS


def test_a_broken_package_is_one_line_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    points = "[fedllm_bench.methods]\nhalf = example_broken:Half\n"
    distribution(tmp_path, monkeypatch, points, example_broken="x = 1 / 0\n")
    found = refusal()
    assert found.startswith("entry point half of example-methods 1.5: ZeroDivisionError")
