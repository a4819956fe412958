"""The figures over rounds and of personalisation: equal for equal numbers, readable for any number of clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from sweeps import sweep

from fedllm_bench.report import view_figures
from fedllm_bench.results import per_client
from fedllm_bench.results.distribution import EQUAL
from fedllm_bench.scores.score import MetricInfo, Score

LOSS = MetricInfo(name="heldout", version="1", unit="nats per token", higher_is_better=False, description="loss")


def payload(n: int, num_unseen: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    sizes = np.exp(rng.normal(3.5, 1.0, n)).astype(int) + 1

    def losses(mean: float) -> dict[str, dict[str, float]]:
        values = {"heldout": rng.normal(mean, 0.3, n), "unseen": rng.normal(mean + 0.5, 0.3, num_unseen)}
        return {part: {f"{part}{i}": float(v) for i, v in enumerate(of)} for part, of in values.items()}

    def scores(mean: float) -> list[Score]:
        return [Score("r", value, cluster=client, group={"part": part})
                for part, of in losses(mean).items() for client, value in of.items()]  # fmt: skip

    lines = [{"round": r, **losses(3 - r / 10)} for r in range(5, 20, 5)]
    over = per_client.over_rounds(lines, scores(3.0), scores(1.0), info=LOSS, num_rounds=20, every=5)
    before = rng.normal(1, 0.1, n)
    clients = [
        {"client": f"c{i}", "num_train_rows": int(sizes[i]), "before": float(b), "after": float(b + d)}
        for i, (b, d) in enumerate(zip(before, rng.normal(-0.02, 0.03, n), strict=True))
    ]
    found = {
        "metric": "heldout",
        "steps": 5,
        "optimizer": "adamw",
        "lr": 1e-4,
        "heldout": {"unit": LOSS.unit},
        "clients": clients,
    }
    return {"over_rounds": over, "personalisation": found}


def texts(figure: Figure) -> str:
    legend = " ".join(text.get_text() for each in figure.legends for text in each.get_texts())
    return f"{legend} {figure.axes[0].get_title(loc='left')}"


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    seen: list[Figure] = []
    real = view_figures.save
    monkeypatch.setattr(view_figures, "save", lambda figure, *args: seen.append(figure) or real(figure, *args))
    return seen


@pytest.mark.parametrize("n", sweep([1, 38, 747], 38))
def test_both_are_written_alike_for_equal_numbers_and_inside_the_page(n, tmp_path: Path, drawn: list[Figure]):
    for folder in ("one", "two"):
        view_figures.heldout_bands(payload(n), tmp_path / folder, label="mini-aya, fedavg, seed 0")
        view_figures.personal_gain(payload(n), tmp_path / folder, label="mini-aya, fedavg, seed 0")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("one", "two"))
    assert one == two
    assert one.keys() == {f"{name}.{kind}" for name in ("heldout_over_rounds", "personalisation")
                          for kind in ("png", "svg")}  # fmt: skip
    for figure in drawn:
        box, title = figure.bbox, figure.axes[0]._left_title.get_window_extent()
        assert title.x1 <= box.x1
        assert all(box.x0 <= legend.get_window_extent().x0 and legend.get_window_extent().x1 <= box.x1
                   for legend in figure.legends)  # fmt: skip


def test_the_band_is_the_quantiles_and_the_legend_has_the_last_values(tmp_path: Path, drawn: list[Figure]):
    found = payload(38)
    view_figures.heldout_bands(found, tmp_path)
    axes, last = drawn[0].axes[0], found["over_rounds"]["rounds"][-1]
    lines = {line.get_label().split(",")[0]: line for line in axes.lines}
    for label, part, key in (("median of clients", "heldout", "median"),
                             ("mean of the worst tenth", "heldout", "worst_tenth"),
                             ("mean of 3 unseen users", "unseen", "mean")):  # fmt: skip
        rows = found["over_rounds"]["rounds"]
        assert lines[label].get_ydata().tolist() == [row[part][key] for row in rows]
        assert lines[label].get_xdata().tolist() == [0, 5, 10, 15, 20]
        assert f"{last[part][key]:.3f}" in texts(drawn[0])
    vertices = axes.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].max() == max(row["heldout"]["p90"] for row in found["over_rounds"]["rounds"])
    assert "38 clients, every 5 rounds" in texts(drawn[0])


def test_clients_who_gained_lost_or_stayed_are_told_apart_and_counted(tmp_path: Path, drawn: list[Figure]):
    found = payload(4)
    changes = [-0.1, -0.2, 0.3, EQUAL / 2]
    for client, change in zip(found["personalisation"]["clients"], changes, strict=True):
        client |= {"before": 1.0, "after": 1.0 + change}
    found["personalisation"]["clients"].append({"client": "x", "num_train_rows": 3, "before": 1.0, "after": None})
    view_figures.personal_gain(found, tmp_path)
    shown = texts(drawn[0])
    for part in ("gained: 2 clients", "lost: 1 client", "equal: 1 client", "of 4 clients: 5 local steps"):
        assert part in shown
    assert len({str(marks.get_paths()[0].vertices.tolist()) for marks in drawn[0].axes[0].collections}) == 3


def test_without_numbers_nothing_is_written(tmp_path: Path):
    empty = payload(0)
    for found in ({"over_rounds": None, "personalisation": None}, empty):
        assert view_figures.heldout_bands(found, tmp_path) == []
        assert view_figures.personal_gain(found, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
