"""What all figures of a diversity report share: sheet, title, footer, colours of languages, names of clients."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.fonts import Letters
from fedllm_bench.report.names import short_names
from fedllm_bench.report.page.browser import language_label
from fedllm_bench.report.style import STYLE, save

# Okabe and Ito, told apart with any colour vision; without black, which a dark page would swallow
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#8A6D3B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OTHER = "#a9adb5"
INK, PAPER, GRID = "#1c1c1e", "#ffffff", "#e6e6e6"  # nothing else has these: the page replaces them by its theme's
LABELLED = 60  # more names than this cannot be read on one page
TITLE_LINE, LEGEND_LINE, FOOTER_LINE = 0.19, 0.165, 0.135  # inches
MARGIN = 0.008  # of the width: letters are a little wider in a file than in the layout
COLOUR_MAP = "cividis"  # even in lightness, and the same for all colour vision
LOOK = {
    **STYLE,
    "text.parse_math": False,  # texts are users': two dollars are no formula
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "grid.color": GRID,
    "axes.titlesize": 9,
}

Section = Mapping[str, Any]
Client = Mapping[str, Any]
Axs = NDArray[Any]  # of Axes, shape (rows, columns)


class Pairs(Protocol):
    """What is measured of pairs of clients, shape (clients, clients), ordered as `report["clients"]`; NaN for none."""

    @property
    def similarity(self) -> NDArray[np.floating[Any]]: ...
    @property
    def mmd2(self) -> NDArray[np.floating[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure: file name without suffix, a heading, and what it shows on how many rows, for page and card."""

    name: str
    heading: str
    title: str
    footer: str


@dataclass(frozen=True)
class Sheet:
    figure: Figure
    axes: Axs


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A report and where its figures go."""

    report: Mapping[str, Any]
    arrays: Pairs | None
    folder: Path
    letters: Letters

    def section(self, name: str) -> Section | None:
        """None where it was skipped."""
        found = self.report["sections"].get(name)
        return None if found is None or "skipped" in found else found

    @property
    def clients(self) -> Sequence[Client]:
        found: Sequence[Client] = self.report["clients"]
        return found

    @cached_property
    def names(self) -> dict[str, str]:
        """Client id -> what stands on an axis."""
        ids = [client["id"] for client in self.clients]
        return dict(zip(ids, short_names(ids), strict=True))

    @cached_property
    def languages(self) -> dict[str, tuple[str, str, str]]:
        """Language code -> (English name, colour, mark); beyond eight, the rarest are grey dots."""
        rows: Counter[str] = Counter()
        for client in self.clients:
            rows.update(client["languages"])
        order = sorted(rows, key=lambda code: (-rows[code], code))
        looks = [*zip(PALETTE, MARKERS, strict=True)]
        if len(order) > len(looks):
            looks = looks[:-1]
        looks += [(OTHER, ".")] * (len(order) - len(looks))
        return {code: (language_label(code), *look) for code, look in zip(order, looks, strict=False)}

    def colour(self, code: str) -> str:
        return self.languages[code][1] if code in self.languages else OTHER

    @contextmanager
    def sheet(self, width: float, height: float, *, shape: tuple[int, int] = (1, 1), **grid: Any) -> Iterator[Sheet]:
        """A figure of `shape` rows and columns in our style, whatever the user's matplotlibrc says; inches."""
        with matplotlib.style.context(["default", {**LOOK, "font.family": list(self.letters.families)}]):
            figure = Figure(figsize=(width, height))
            yield Sheet(figure, figure.subplots(*shape, squeeze=False, **grid))

    def finish(
        self, sheet: Sheet, told: tuple[str, str, str], section: Section, legend: Sequence[Artist] = ()
    ) -> Drawing:
        """Title, legend under it, footer and files; to be called inside :meth:`sheet`.

        `told`: file name, heading, title; `legend`: what has labels, as lines and patches.
        """
        name, heading, title = told
        drawing = Drawing(name=name, heading=heading, title=title, footer=self.footer(section))
        lay_out(sheet.figure, title, drawing.footer, legend)
        save(sheet.figure, self.folder, name)
        return drawing

    def footer(self, section: Section) -> str:
        """ "mini-aya: 2,048 rows of 38 clients; lengths of all rows"."""
        on, split = section["computed_on"], self.report["split"]["name"]
        return f"{split}: {counted_with_commas(on['rows'], 'row')} of {counted(on['clients'], 'client')}; {on['what']}"


def counted_with_commas(count: int, thing: str) -> str:
    return counted(f"{count:,}", thing)


def lay_out(figure: Figure, title: str, footer: str, legend: Sequence[Artist]) -> None:
    """Title and legend above the axes, footer below; what constrained layout would put over each other."""
    width, height = figure.get_size_inches()
    head = textwrap.fill(title, int(width * 12.5))
    foot = textwrap.fill(footer, int(width * 16.5))
    longest = max((len(str(item.get_label())) for item in legend), default=0)
    columns = max(1, int((width - 0.2) / (0.48 + 0.075 * longest)))
    above = 0.1 + TITLE_LINE * (head.count("\n") + 1) + LEGEND_LINE * -(-len(legend) // columns)
    below = 0.1 + FOOTER_LINE * (foot.count("\n") + 1)
    figure.text(0.06 / width, 1 - 0.06 / height, head, ha="left", va="top", fontsize=10)
    figure.text(0.06 / width, 0.06 / height, foot, ha="left", va="bottom", fontsize=7, alpha=0.75)
    if legend:
        _add_legend(figure, legend, columns, below_top=0.1 + TITLE_LINE * (head.count("\n") + 1))
    figure.set_layout_engine("constrained", rect=(MARGIN, below / height, 1 - 2 * MARGIN, 1 - (above + below) / height))
    for _ in range(2):  # ticks change with the first, and room for their labels with the second
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the same for both kinds of file
    for axes in figure.axes:  # the solver's last digits differ from run to run, and name parts of an SVG
        left, bottom, wide, high = axes.get_position(original=True).bounds
        axes.set_position((round(left, 5), round(bottom, 5), round(wide, 5), round(high, 5)))


def _add_legend(figure: Figure, legend: Sequence[Artist], columns: int, below_top: float) -> None:
    width, height = figure.get_size_inches()
    figure.legend(
        handles=legend,
        loc="upper left",
        bbox_to_anchor=(0.06 / width, 1 - below_top / height),
        borderpad=0,
        borderaxespad=0,
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.5,
        fontsize=7.5,
    )


def clients_upwards(axes: Axes, names: Sequence[str]) -> None:
    """Clients by name on the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def height_of(num_clients: int) -> float:
    """Inches of a sheet with a line for each client."""
    return 1.5 + 0.165 * num_clients


def language_legend(frame: Frame) -> list[Artist]:
    handles: list[Artist] = [
        Patch(color=colour, label=name) for name, colour, _ in frame.languages.values() if colour != OTHER
    ]
    if len(handles) < len(frame.languages):
        handles.append(Patch(color=OTHER, label=f"{len(frame.languages) - len(handles)} others"))
    return handles


def plain_log(axis: Axis, subs: Sequence[float] = (1, 2, 5)) -> None:
    """A logarithmic axis with numbers as people write them, at these multiples of powers of ten."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value % 1 else f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())
