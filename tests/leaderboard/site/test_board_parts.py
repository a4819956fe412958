"""Parts of the site that need no submissions: commands to run again, themes, plots, the size of the first page."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from board_entries import TRACK, entry, full

from fedllm_bench.config import presets
from fedllm_bench.leaderboard.ranking.standing import board_of, boards_of
from fedllm_bench.leaderboard.site import entries
from fedllm_bench.leaderboard.site.board_page import board_page
from fedllm_bench.leaderboard.site.pages import switch
from fedllm_bench.leaderboard.site.plots import curves_of, plots_of
from fedllm_bench.leaderboard.submission.reproduce import changed, commands
from fedllm_bench.leaderboard.submission.tracks import find_track, flat
from fedllm_bench.report.page.parts import policy

MEANS = {"fedavg": 0.50, "fedprox": 0.52, "scaffold": 0.65, "poor": 0.30}


@pytest.fixture(scope="module")
def board():
    rng = np.random.default_rng(0)
    found = [
        entry(name, full(rng, mean), bytes_up=1e6 * (i + 1), bytes_down=1e6, epsilon=None if i else 4.0)
        for i, (name, mean) in enumerate(MEANS.items())
    ]
    return board_of(found, TRACK)


# --- commands


def run_again(command):
    """The config that a command of a page would run."""
    words = shlex.split(command)
    assert words[:2] == ["fedllm-bench", "bench"]
    options = dict(zip(words[4::2], words[5::2], strict=True)) if "--set" not in words else {}
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    given = {words[i]: words[i + 1] for i in range(4, len(words), 2)} | options
    named = {key: given[f"--{key}"] for key in ("engine", "variant") if f"--{key}" in given}
    return presets.load(words[2], words[3], given["--profile"], settings, seed=int(given["--seed"]), **named)


@pytest.mark.parametrize(
    ("method", "overrides", "options"),
    [
        ("fedavg", (), {}),
        ("fedprox", ("method.mu=0.3", "local.lr=1e-4", "local.gradient_checkpointing=true"), {}),
        ("dp_fedavg", ("privacy.epsilon=none", "privacy.noise_multiplier=0.7"), {}),
        ("scaffold", ("lora.targets=q_proj,v_proj", "evaluation.metrics=heldout"), {"engine": "trl"}),
        ("fedavg", ("model.revision=it's; rm -rf $HOME", "federation.rounds=3"), {"model": "a b/$(c)"}),
    ],
)
def test_the_command_on_a_page_gives_the_same_config(method, overrides, options):
    config = presets.load("aya", method, "mini", overrides, seed=5, **options)
    (command,) = commands(flat(config), [5], find_track("mini-aya/open"))
    assert run_again(command) == config


def test_a_method_that_the_suite_does_not_have_has_no_command():
    config = flat(presets.load("aya", "fedavg", "mini")) | {"method.name": "mine; rm -rf /"}
    assert commands(config, [0], TRACK) == []


def test_only_what_differs_from_the_preset_is_named():
    config = flat(presets.load("aya", "fedavg", "mini", ("local.lr=1e-4",), seed=9))
    assert changed(config, TRACK) == {"local.lr": (0.015, 0.0001)}


# --- pages


def test_both_schemes_can_be_chosen():
    light = ":root {\n  color-scheme: light dark;\n  --ink: #000;\n}\n"
    rules = switch(light + "@media (prefers-color-scheme: dark) {\n  :root {\n    --ink: #fff;\n  }\n}\n")
    assert re.search(r':root\[data-theme="light"\] \{\s*--ink: #000;\s*\}', rules)
    assert re.search(r':root\[data-theme="dark"\] \{\s*--ink: #fff;\s*\}', rules)
    with pytest.raises(ValueError, match="no colours of both schemes"):
        switch(":root {\n --ink: #000;\n}\n")


def test_the_policy_names_each_script_by_its_hash():
    """sha256 of "" in base64 is well known."""
    assert "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='" in policy([""])
    assert policy(["a", "b"]).count("sha256-") == 2


def test_a_first_page_of_500_rows_is_below_a_megabyte(board):
    rows = tuple(
        replace(
            board.rows[i % 4], slug=f"2026-01-31_a-rather-long-name-{i:03d}", method=f"A rather long name of {i:03d}"
        )
        for i in range(500)
    )
    page = board_page(replace(board, rows=rows), [board], root="")
    assert page.count("<tr data-k") == 500
    assert len(page.encode()) < 1_000_000


def test_a_plot_for_each_metric_and_cost_with_its_words(board):
    plots = plots_of(board)
    assert [plot.title for plot in plots] == [
        f"{name} against communicated bytes of a run" for name in ("heldout ↓", "mini_exact ↑", "mini_choice ↑")
    ]  # one row alone has an epsilon: nothing to compare
    assert plots[1].spoken.startswith("4 rows. Best mini_exact: scaffold, 0.6")
    assert "Least communicated bytes of a run: fedavg, 2.0 MB" in plots[1].spoken
    points = [tuple(map(float, point.split())) for point in re.findall(r"M(\S+ \S+)h0", plots[1].dots)]
    assert len(points) == 4
    assert all(plots[1].left <= x <= plots[1].right and 0 <= y <= plots[1].bottom for x, y in points)
    assert [label.y for label in plots[1].labels] == sorted(label.y for label in plots[1].labels)


def test_many_points_at_one_place_have_labels_that_do_not_lie_on_each_other(board):
    rows = tuple(replace(board.rows[0], slug=f"s{i}", method=f"m{i}", num_bytes=1e6 + i) for i in range(12))
    for plot in plots_of(replace(board, rows=rows)):
        heights = sorted(label.y for label in plot.labels)
        sides = {label.end for label in plot.labels}
        assert len(heights) == 12
        for side in sides:
            ours = sorted(label.y for label in plot.labels if label.end == side)
            assert all(b - a >= 10.9 for a, b in itertools.pairwise(ours))
        assert heights[-1] <= plot.bottom


def test_a_curve_needs_two_points():
    assert curves_of("loss", "nats", {"seed 0": [(1.0, 2.0)]}) is None
    curves = curves_of("loss", "nats", {"seed 0": [(1.0, 2.0), (3.0, 1.0)], "seed 1": []})
    assert [line.name for line in curves.lines] == ["seed 0"]
    assert curves.spoken == "seed 0: from 2.000 to 1.000"


def test_boards_are_apart_by_track_split_and_judge():
    rng = np.random.default_rng(0)
    of = full(rng, 0.5)
    judged = {"ref_gpt4@stub": replace(of["mini_exact"], name="ref_gpt4@stub", judge="stub")}
    found = [
        entry("a", of),
        entry("b", of, split_hash="cd" * 32),
        entry("c", of, track="mini-aya/open"),
        entry("d", {"heldout": of["heldout"], **judged}, track="aya/fixed"),
    ]
    assert [(board.track, board.judge, len(board.rows)) for board in boards_of(found)] == [
        ("mini-aya/fixed", "", 1),
        ("mini-aya/fixed", "", 1),
        ("mini-aya/open", "", 1),
        ("aya/fixed", "", 1),
        ("aya/fixed", "stub", 1),
    ]
    assert len({board.id for board in boards_of(found)}) == 5


def test_a_number_that_no_float_holds_is_none_of_a_board() -> None:
    run: Any = SimpleNamespace(
        lines=lambda name: [{"bytes_up": 10**400}, {"bytes_up": 1}],
        has=lambda name: True,
        json=lambda name: {"privacy": {"epsilon": 10**400}, "cost": {"train_flops": 10**400}},
    )
    assert entries._sum_of(run, "bytes_up") is None
    assert entries._epsilon(run) is None
    assert entries._train_flops(run) is None
