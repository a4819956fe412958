"""How all figures look, and how they are saved. Equal numbers give equal bytes under one version of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from fedllm_bench.common.files import make_folder, write_bytes

# the palette of Okabe and Ito: told apart with any colour vision
COLOURS = {"before": "#999999", "after": "#0072B2", "local": "#E69F00", "train": "#56B4E9"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "fedllm-bench",  # else the ids inside the SVG are random
}
METADATA: Mapping[str, dict[str, Any]] = MappingProxyType({"png": {"Software": None}, "svg": {"Date": None}})


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure in our style, whatever the user's matplotlibrc says; inches."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height))
        yield figure, figure.add_subplot()


def save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """To be called inside :func:`canvas`: saving reads the style again."""
    make_folder(out_dir)
    paths = []
    for suffix, metadata in METADATA.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix, dpi=150, metadata=metadata)
        paths.append(out_dir / f"{name}.{suffix}")
        write_bytes(paths[-1], content.getvalue())
    return paths


def legend_below(figure: Figure, **options: Any) -> Legend | None:
    """A legend under the axes; None where nothing in them has a name, of which matplotlib would warn."""
    if not any(axes.get_legend_handles_labels()[1] for axes in figure.axes):
        return None
    return figure.legend(loc="outside lower left", fontsize=8, **options)


def title(axes: Axes, label: str, text: str) -> None:
    axes.set_title(f"{label}\n{text}" if label else text)
