"""A metric of a plugin that fails while it scores: one line with its name, its file and the line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.metrics.registry import METRICS, score_group
from fedllm_bench.plugins import in_use

ROWS = """\
from fedllm_bench.scores.score import MetricInfo, Score

class Few:
    info = MetricInfo(name="few", version="1", unit="share", higher_is_better=True, description="")
    needs_probes = False
    task = "sft"

    def score(self, model, items, settings):
        WRONG

METRICS = {"few": Few()}
"""
QUESTIONS = """\
from fedllm_bench.evaluation.metrics.registry import OpenMetric
from fedllm_bench.scores.score import MetricInfo, Score

def score(*_):
    WRONG

INFO = MetricInfo(name="few", version="1", unit="share", higher_is_better=True, description="")
METRICS = {"few": OpenMetric(info=INFO, benchmark="mini", needs_judge=False, low=0, high=1, score=score, MORE)}
"""
ITEMS: list[Any] = [SimpleNamespace(part="heldout", row=SimpleNamespace(client_id="anna", row_id="a"))]
NOTHING: Any = None


def rows(folder: Path, wrong: str) -> None:
    path = folder / "mine.py"
    path.write_text(ROWS.replace("WRONG", wrong), encoding="utf-8")
    with in_use([path]):
        score_group(("few",), NOTHING, ITEMS, NOTHING)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one"),
        ("return [Score('a', 'high')]", "ValueError: item 'a' has 'high', which is no number; give None and a reason"),
        ("return [Score('a', None)]", "ValueError: item 'a' has no value and no reason; say why it is unscored"),
    ],
)
def test_whatever_it_raises_is_one_line_with_file_and_line(wrong: str, expected: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        rows(tmp_path, wrong.replace("\n", "\\n"))
    said = str(caught.value)
    assert said.startswith("the metric few (1+mine.py-")
    assert said.endswith(f"failed at {tmp_path / 'mine.py'} line 9: {expected}; correct the plugin")


def test_scores_for_other_rows_are_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"gave 2 scores for 1 row; give one for each, in order"):
        rows(tmp_path, "return [Score('a', 1.0, cluster='anna')] * 2")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("raise KeyboardInterrupt", KeyboardInterrupt),
        ("raise MemoryError", MemoryError),
        ("import torch; raise torch.OutOfMemoryError('CUDA out of memory')", torch.OutOfMemoryError),
    ],
)
def test_an_interrupt_and_a_lack_of_memory_stay_what_they_are(wrong: str, kind: type[BaseException], tmp_path: Path):
    with pytest.raises(kind):
        rows(tmp_path, wrong)


def test_an_error_of_a_metric_of_the_suite_stays_what_it_is():
    with pytest.raises(AttributeError):
        METRICS["heldout"].score(NOTHING, [NOTHING], NOTHING)


@pytest.mark.parametrize("more", ["", "across=score"])
def test_a_metric_of_answers_is_looked_at_in_the_same_way(more: str, tmp_path: Path):
    prompts = [Prompt(item_id="q", turns=("Why?",))]

    def ask(wrong: str) -> Any:
        path = tmp_path / "mine.py"
        path.write_text(QUESTIONS.replace("WRONG", wrong).replace("MORE", more), encoding="utf-8")
        with in_use([path]):
            metric = OPEN_METRICS["few"]
            return metric.across(prompts, {"base": {}}) if metric.across else metric.score(prompts, {}, ())

    form = "{{'base': {}}}" if more else "{}"
    right = ask("return " + form.format("[Score('q', 1.0)]"))
    assert [score.value for score in (right["base"] if more else right)] == [1.0]
    with pytest.raises(UserError, match=r"the metric few \(1\+mine.py-\w+\) gave two scores of 'q'; give one"):
        ask("return " + form.format("[Score('q', 1.0)] * 2"))
    with pytest.raises(UserError, match=r"failed at .*mine.py line 5: KeyError: 'x'; correct the plugin"):
        ask("raise KeyError('x')")
