"""Plugins from Python: registered for one call, and named to the processes of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_examples import settings
from bench_runs import quick
from grid_runs import started_here
from plugin_docs import written

import fedllm_bench as fb
from fedllm_bench.common import hardware
from fedllm_bench.config import plugins
from fedllm_bench.data.manifest import Split
from fedllm_bench.plugins import VARIABLE


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)


def options(split: Split) -> dict[str, Any]:
    return {"split": split, "settings": settings(), "progress": False}


def test_a_run_takes_a_method_and_a_metric_of_ones_own_and_gives_them_back(tiny_split: Split, tmp_path: Path) -> None:
    method, metric = written(tmp_path, "my_method.py", "my_metric.py")
    with quick():
        more = {**options(tiny_split), "metrics": ["heldout", "first_word"], "threads": 1}
        run = fb.bench("aya", "my_dyn", plugins=[method, str(metric)], **more)
    assert {"heldout", "first_word"} < set(run.results["metrics"])
    assert not plugins.GIVEN
    found = fb.compare(run, run, metrics=["first_word"], plugins=metric)
    assert found.results["models"][0]["metric"].startswith("first_word")
    assert not plugins.GIVEN


def test_a_grid_names_them_to_its_cells(tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (method,) = written(tmp_path, "my_method.py")
    with quick():
        started_here(monkeypatch, lambda task: "--plugin=my_method.py" not in task.words)
        table = fb.grid("aya", ["my_dyn"], [0], metrics="heldout", plugins="my_method.py", **options(tiny_split))
    assert not table.failed
    assert method.name in {one["name"] for one in table.runs[0].config["plugins"]}


def test_those_of_the_environment_count_too(tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (method,) = written(tmp_path, "my_method.py")
    monkeypatch.setenv(VARIABLE, str(method))
    with pytest.raises(fb.UserError, match="no option"):  # the method is known, the setting is not
        fb.bench("aya", "my_dyn", split=tiny_split, settings={"local.lrr": 1})


def test_a_missing_one_is_told_in_the_words_of_python_too() -> None:
    with pytest.raises(fb.UserError, match=r"--plugin FILE\.py, or plugins=\[FILE\.py\] from Python"):
        fb.bench("aya", "my_dyn")
    with pytest.raises(fb.UserError, match=r"nowhere\.py: No such file"):
        fb.evaluate("runs", plugins=["nowhere.py"])
    with pytest.raises(fb.UserError, match="plugins: got 3; give the path of a plugin, or a list of paths"):
        fb.bench("aya", "fedavg", plugins=3)  # type: ignore[arg-type]
