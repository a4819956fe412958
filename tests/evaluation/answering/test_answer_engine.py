"""Where answers are made: as asked, else as the run was trained; one line where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Ray
from fedllm_bench.evaluation.answering.run_answers import workers_of
from fedllm_bench.training.cluster import connection


def test_a_run_answers_where_it_was_trained_unless_it_is_told_otherwise(tiny_run_config: Any) -> None:
    over_ray = tiny_run_config("fedavg", "ray.workers=3", engine="ray")
    assert workers_of(None, over_ray) == Ray(workers=3)
    assert workers_of("inprocess", over_ray) is None
    assert workers_of(None, tiny_run_config()) is None
    assert workers_of("ray", tiny_run_config()) == Ray()
    assert workers_of(None) is None
    assert workers_of("ray") == Ray()


def test_an_unknown_engine_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"'trl'.*inprocess.*ray"):
        workers_of("trl")


def test_where_there_is_no_ray_the_line_says_how_to_answer_here(
    tiny_run_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not installed; .*; or give --engine inprocess"):
        workers_of(None, tiny_run_config(engine="ray"))
    assert workers_of("inprocess", tiny_run_config(engine="ray")) is None


def test_an_endpoint_answers_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", str(tmp_path / "out")]
    assert cli.main(["answer", *where, "--metrics", "mt_bench", "--engine", "ray"]) == 2
    assert "--engine: not with --endpoint" in capsys.readouterr().err
