"""Figures are written, equal to the byte for equal numbers, and say what they show."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from sweeps import sweep

from fedllm_bench.report.client_figures import clients, short_ids
from fedllm_bench.report.figures import loss_over_rounds, tasks

HELDOUT = [(0, 1.1, 1.0, 1.2), (5, 0.6, None, None)]
ODD_IDS = ["пользователь", "用户" * 20, "$x$", "a" * 60, "tab\t"]


def rounds() -> list[dict]:
    rng = np.random.default_rng(0)
    rows = [{"round": r, "losses": list(rng.normal(2 / r, 0.1, size=8)), "lr": 1e-3} for r in range(1, 6)]
    rows[2]["losses"] = [None, *rows[2]["losses"][1:]]
    rows[3]["losses"] = []
    return rows


def of_clients(n: int, *, local: bool = False, unit: str = "nats per token") -> dict:
    """A payload with `n` clients, some with odd ids, and one more without a score of the base."""
    rng = np.random.default_rng(0)
    names = [*ODD_IDS, *(f"client{i}" for i in range(n))][:n]
    step = 0.2 if unit == "share" else 1e-6
    values = np.round(rng.uniform(0, 1, size=(n, 3)) / step) * step
    rows = [
        {"client": name, "before": b, "after": a, "local": c if local else None, "n_rows": 3}
        for name, (b, a, c) in zip(names, values.tolist(), strict=True)
    ]
    entry = {"unit": unit, "distribution": {"difference": {"n": n}, "num_better": n - 1, "num_worse": 0}}
    return {
        "run": {"method": "local", "personal": not local},
        "metrics": {"m": entry},
        "clients": {"m": [*rows, {"client": "none", "before": None, "after": 1.0, "local": None, "n_rows": 1}]},
    }


def payload() -> dict:
    def summary(mean):
        return {"mean": mean, "ci_low": 0.1, "ci_high": 0.9, "n": 38, "n_scored": 100}

    entry = {"unit": "share", "before": summary(0.2), "after": summary(0.6), "local": None}
    return {
        "run": {"method": "fedavg", "personal": False},
        "metrics": {
            "mini_exact": entry,
            "mini_exact_facts": entry,
            "mini_exact_arithmetic": entry,
            "x": entry,
        },
    }


FIGURES = {
    "rounds": lambda out: loss_over_rounds(rounds(), HELDOUT, out, label="mini-aya · fedavg", heldout_on="9 clients"),
    "one client": lambda out: clients(of_clients(1), "m", out),
    "four clients": lambda out: clients(of_clients(4, local=True), "m", out),
    "few clients": lambda out: clients(of_clients(38), "m", out, label="mini-aya · fedavg"),
    "few clients of shares": lambda out: clients(of_clients(38, local=True, unit="share"), "m", out),
    "many clients": lambda out: clients(of_clients(747, local=True), "m", out),
    "many clients of shares": lambda out: clients(of_clients(747, unit="share"), "m", out),
    "tasks": lambda out: tasks(payload(), out, label="mini-aya · fedavg"),
}


@pytest.mark.parametrize("name", sweep(FIGURES, "many clients of shares", "rounds"))
def test_figures_are_equal_to_the_byte_whatever_the_user_configured(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or a layout that does not fit is a warning
        first = FIGURES[name](tmp_path / "a")
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = FIGURES[name](tmp_path / "b")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted((tmp_path / "a").iterdir()) == sorted(first)


def text_of(svg: Path) -> str:
    """matplotlib writes each text as a comment beside its outline."""
    return svg.read_text(encoding="utf-8")


def test_titles_say_on_what_it_was_computed(tmp_path):
    text = text_of(clients(of_clients(38), "m", tmp_path)[1])
    assert "m of 38 clients (1 more lack a score) on 114 items; better after for 37, equal for 1" in text
    text = text_of(FIGURES["rounds"](tmp_path / "rounds")[1])
    assert "Loss over 5 rounds of 7 to 8 clients" in text
    assert "held-out: 9 clients" in text
    text = text_of(FIGURES["tasks"](tmp_path / "tasks")[1])
    assert "100 items," in text
    assert "38 clients" in text


def test_nothing_is_written_where_there_is_nothing_to_show(tmp_path):
    assert clients(of_clients(0), "m", tmp_path / "a") == []
    assert tasks({"metrics": {"heldout": {}}}, tmp_path / "a") == []
    assert not (tmp_path / "a").exists()


def test_rounds_alone_make_a_figure(tmp_path):
    assert len(loss_over_rounds(rounds(), [], tmp_path)) == 2


def test_the_legend_names_whose_adapters_they_are_and_the_medians(tmp_path):
    text = text_of(clients(of_clients(4), "m", tmp_path / "a")[1])
    assert "after (local), median" in text
    assert "trained alone" not in text
    text = text_of(clients(of_clients(38, local=True), "m", tmp_path / "b")[1])
    assert "after, median" in text
    assert "trained alone (38 clients), median" in text


def test_ids_are_short_and_have_glyphs():
    assert short_ids(["user07", "0123456789abcdef"]) == ["user07", "012345678…cdef"]
    alike = short_ids(["a" * 100 + "b" * 100, "a" * 99 + "b" * 101, "user07"])
    assert len(set(alike)) == 3
    assert max(map(len, alike)) <= 14
    shown = short_ids(ODD_IDS)
    assert len(set(shown)) == len(ODD_IDS)
    assert all(len(text.replace("\\", "")) <= 14 and text.isprintable() for text in shown)


def test_no_global_state_of_pyplot_is_used():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
