"""What is of another type than asked for is one line, as bad input of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedllm_bench as fb

API: Any = fb  # types are what is wrong here
SEEDS = "; give whole numbers, 0 or more"
CASES: dict[str, Callable[[], object]] = {
    f"seeds: got 3{SEEDS}": lambda: API.grid("aya", seeds=3),
    f"seeds: got '0,1'{SEEDS}": lambda: API.grid("aya", seeds="0,1"),
    "dataset: got None; give a text": lambda: API.bench(None, "fedavg"),
    "method: got None; give a text": lambda: API.bench("aya", None),
    "method: got ['fedavg']; give a text": lambda: API.bench("aya", ["fedavg"]),
    "methods: got None; give": lambda: API.grid("aya", None),
    "metrics: got 3; give a list of names": lambda: API.bench("aya", "fedavg", metrics=3),
    "profile: got 3; give a text": lambda: API.bench("aya", "fedavg", profile=3),
    "variant: got 3; give a text": lambda: API.bench("aya", "fedavg", variant=3),
    "split: got 3; give a path": lambda: API.bench("aya", "fedavg", split=3),
    "out: got 3; give a path": lambda: API.bench("aya", "fedavg", out=3),
    "run: got None; give a Run, or its folder": lambda: API.open_run(None),
    "run: got 3; give a Run": lambda: API.evaluate(3),
    "runs: got 3; give one or more": lambda: API.compare(3, 3),
    "name: got None; give the name": lambda: API.load_split(None),
    "split: got None; give a Split": lambda: API.diversity(None),
    "jobs: got -1; give a whole number, 1 or more": lambda: API.grid("aya", jobs=-1),
    "jobs: got 'two'; give a whole number, 1 or more": lambda: API.grid("aya", jobs="two"),
    "jobs: got 0; give a whole number, 1 or more": lambda: API.grid("aya", jobs=0),
    "threads: got 0; give a whole number, 1 or more": lambda: API.bench("aya", "fedavg", threads=0),
    "threads: got 'a'; give a whole number, 1 or more": lambda: API.bench("aya", "fedavg", threads="a"),
    "seed: got 'a'; give a whole number, 0 or more": lambda: API.bench("aya", "fedavg", seed="a"),
    "sections: got []; give one or more names": lambda: API.diversity("aya", sections=[]),
    "sections: got ''; give one or more names": lambda: API.diversity("aya", sections=""),
}


@pytest.mark.parametrize("said", CASES)
def test_another_type_is_one_line(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fb.UserError) as caught:
        CASES[said]()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
