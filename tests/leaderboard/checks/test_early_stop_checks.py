"""Runs that stopped early on a board: their checks, who was asked in them, and that training ended where they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submissions import Forgery, codes, context, honest

from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.checks.stopping import early_stop, validation
from fedllm_bench.leaderboard.submission.submitted import ROUND, Round
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.early_stop import early_stop_block, ends_at, has_stopped

ROUNDS, RESULTS = "runs/0/rounds.jsonl.gz", "runs/0/results.json.gz"
PATIENT = ("federation.rounds=6", "federation.patience=2")
SIZES = (1, 2, 30)  # training rows; of 0.1 of them, one and three are kept apart


def line(number: int, loss: float | None, clients: int = 2, rows: int = 4) -> Round:
    check = {"loss": loss, "clients": clients, "rows": rows, "bytes_down": 8, "bytes_up": 8, "seconds": 0.1}
    lists = {"clients": [], "client_ids": [], "losses": [], "num_examples": [], "steps": [], "failures": []}
    sizes = {"bytes_up": 0, "bytes_down": 0, "update_norm": 1.0, "seconds": 1.0, "lr": 1.0}
    return ROUND.validate_python(Round(round=number, check=check, **lists, **sizes))  # type: ignore[arg-type]


def submitted(config: RunConfig, lines: Sequence[Round], rows: int = 4, clients: int = 2) -> Any:
    block = early_stop_block(config, [vars(one) for one in lines], rows, clients)
    return SimpleNamespace(config=config, method=make_method(config), rounds=list(lines), where="runs/0",
                           results={"early_stop": block}, has_own_method=False)  # fmt: skip


def known(sample: Sequence[int] = (0, 1, 2)) -> Any:
    clients = [SimpleNamespace(train=size) for size in SIZES]
    return SimpleNamespace(split=SimpleNamespace(manifest=SimpleNamespace(clients=clients)),
                           local_sample=lambda run: list(sample))  # fmt: skip


def found(run: Any) -> list[str]:
    return [problem.message for problem in early_stop(run, "runs/0")]


def test_an_honest_log_has_no_problem(tiny_run_config) -> None:
    run = submitted(
        tiny_run_config("fedavg", *PATIENT), [line(n, loss) for n, loss in enumerate((3.0, 2.0, 2.0, None), 1)]
    )
    assert found(run) == []
    assert list(validation(run, known())) == []


def test_rounds_behind_the_end_are_named(tiny_run_config) -> None:
    config = tiny_run_config("fedavg", *PATIENT)
    texts = found(submitted(config, [line(n, loss) for n, loss in enumerate((1.0, 2.0, 2.0, 0.5), 1)]))
    assert texts == ["there are 4 rounds, and federation.patience=2 ends them at 3"]


def test_checks_of_other_clients_than_stated_are_named(tiny_run_config) -> None:
    config = tiny_run_config("fedavg", *PATIENT)
    few = submitted(config, [line(1, 3.0), line(2, 2.0, clients=-5)])
    assert found(few) == ["round 2 has a check of -5 clients and 4 rows, results.json says 2 and 4"]


@pytest.mark.parametrize(("clients", "rows"), [(1, 4), (2, 3), (0, 0), (3, 5), (2, 10**9)])
def test_validation_rows_are_those_of_the_split(clients, rows, tiny_run_config) -> None:
    config = tiny_run_config("fedavg", *PATIENT)
    run = submitted(config, [line(1, 3.0, clients, rows)], rows, clients)
    (text,) = validation(run, known())
    assert text.endswith("the split gives 4 of 2")


def test_of_a_personal_method_the_sample_is_asked(tiny_run_config) -> None:
    run = submitted(tiny_run_config("ditto", *PATIENT), [line(1, 3.0, 1, 3)], 3, 1)
    assert list(validation(run, known(sample=[2]))) == []
    assert list(validation(run, known())) != []


def test_the_end_is_that_of_every_beginning_of_the_log(tiny_run_config) -> None:
    config = tiny_run_config("fedavg", *PATIENT)
    for losses in ((3.0, 2.0, 2.0, 2.0), (None, None), (1.0, None, 0.5, 0.6, 0.5), (1.0, 0.5), ()):
        lines: list[dict[str, Any]] = [{"round": n, "check": {"loss": loss}} for n, loss in enumerate(losses, 1)]
        ends = [n for n in range(1, len(lines) + 1) if has_stopped(config, lines[:n])]
        assert ends_at(config, lines) == (ends[0] if ends else None)


def test_a_log_of_many_rounds_takes_no_time(tiny_run_config) -> None:
    lines = [{"round": n, "check": {"loss": 1.0 / n}} for n in range(1, 100_001)]
    assert ends_at(tiny_run_config("fedavg", *PATIENT), lines) is None


@pytest.mark.slow
def test_a_run_with_patience_is_accepted_and_forged_checks_are_not(tiny_split: Split, tmp_path: Path) -> None:
    settings = ("federation.rounds=3", "federation.patience=2")
    folder = honest(tiny_split, tmp_path, *(word for one in settings for word in ("--set", one)), answers=False)
    report = validate.validate(folder, context(tiny_split))
    assert codes(report) == {"few-seeds"}, report.problems

    def forged(name: str, change: Callable[[dict[str, Any]], Any], *, is_told: bool) -> set[str]:
        """With each check changed, and bytes that follow from it; `is_told`: results.json says the same."""
        forgery = Forgery(Path(shutil.copytree(folder, tmp_path / name)))

        def of_lines(lines: list[dict[str, Any]]) -> None:
            for one in lines:
                of_client, before = one["check"]["bytes_down"] // one["check"]["clients"], dict(one["check"])
                change(one["check"])
                one["check"] |= {
                    "bytes_down": of_client * one["check"]["clients"],
                    "bytes_up": 8 * one["check"]["clients"],
                }
                for key in ("bytes_down", "bytes_up"):
                    one[key] += one["check"][key] - before[key]

        forgery.set_lines(ROUNDS, of_lines)
        if is_told:
            lines = forgery.lines(ROUNDS)
            forgery.json(RESULTS, lambda results: _told(results, lines))
        forgery.fix_claims()
        return codes(validate.validate(forgery.folder, context(tiny_split)), "refused")

    assert "num-examples" in forged("lines", lambda check: check.update(clients=1), is_told=False)
    assert forged("both", lambda check: check.update(clients=1), is_told=True) == {"num-examples"}


def _told(results: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
    results["early_stop"]["num_validation_clients"] = lines[0]["check"]["clients"]
    sent = [one["bytes_up"] + one["bytes_down"] for one in lines]
    checks = [one["check"] for one in lines]
    results["early_stop"] |= {
        "bytes_to_best": sum(sent[: results["early_stop"]["best_round"]]),
        "bytes_to_end": sum(sent),
        "bytes_of_checks": sum(one["bytes_up"] + one["bytes_down"] for one in checks),
    }
    results["cost"] |= {key: sum(one[key] for one in lines) for key in ("bytes_up", "bytes_down")}
