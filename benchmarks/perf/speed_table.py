"""What `make speed` found, as lines of text and as a bar chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.benchmarks.perf.turns import machine_line
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import make_folder, write_bytes
from fedllm_bench.common.text import size

HEAD = (
    f"{'':10}{'s/round':>9}{'ratio':>8}{'[least, largest]':>18}{'useful tok/s':>14}{'useful':>8}{'of limit':>10}"
    f"{'outside':>9}{'peak':>10}"
)
LEGEND = (
    "ratio: times of a turn over ours. useful: of the tokens that are processed, the rest is padding. of limit: useful "
    "FLOP/s over the\nmatmul limit. outside: share of time outside forward, backward and optimiser. peak: memory of "
    "all processes."
)
COLOURS = {"ours": "#0072B2", "loop": "#56B4E9", "trl": "#E69F00", "published": "#999999"}
OTHERS = "#CC79A7"


def of_case(found: Mapping[str, Any]) -> str:
    """A head line, a line for each way, and how far apart the adapters are."""
    of_round = found["round"]
    step = f"{of_round['accumulation']} x {of_round['micro_batch']} {'rows' if found['loss'] == 'sft' else 'pairs'}"
    lines = [
        f"{found['case']}, {found['loss']}: {found['base']}; {of_round['clients']} clients x {of_round['steps']} steps "
        f"x {step}, {found['useful_tokens']:,} tokens a round, LoRA of rank {of_round['rank']}",
        HEAD,
        *(of_way(found, name) for name in found["ratios"]),
        "same adapters: relative L2 " + (", ".join(f"{k} {v:.1e}" for k, v in found["relative_l2"].items()) or "-"),
        f"sent to and from each client: {size(found['bytes_down'])} and {size(found['bytes_up'])}; matmul limit "
        f"{found['matmul_limit'] / 1e9:.0f} GFLOP/s",
    ]
    return "\n".join(lines) + "\n"


def of_way(found: Mapping[str, Any], name: str) -> str:
    ratio, peak = found["ratios"][name], found["peak_bytes"].get(name)
    useful = found["useful_tokens"] / found["processed_tokens"][name]
    spread = f"[{ratio['least']:.2f}, {ratio['largest']:.2f}]"
    outside = f"{found['outside_share']:.1%}" if name == "ours" else "-"
    return (
        f"{name:10}{found['median_seconds'][name]:9.3f}{ratio['median']:7.2f}x{spread:>18}"
        f"{found['useful_tokens_per_second'][name]:14,.0f}{useful:8.2f}{found['share_of_limit'][name]:10.1%}"
        f"{outside:>9}{size(peak) if peak else '-':>10}"
    )


def of_curves(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for one in found:
        speeds = one["useful_tokens_per_second"]
        lines.append(f"clients in a pass, {one['case']}, {one['rows']} rows a step of each (useful tokens/s)")
        lines.append("".join(f"{name:>9}" for name in speeds))
        lines.append("".join(f"{speed:9,.0f}" for speed in speeds.values()))
        lines.append(f"most below a smaller number: {one['drop']:.0%}\n")
    return "\n".join(lines)


def of_workers(found: Mapping[str, Any]) -> str:
    if "skipped" in found:
        return f"Ray workers: skipped, {found['skipped']}\n"
    pairs = found["median_seconds"].items()
    words = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in pairs)
    return f"Ray workers, {found['case']}, seconds a round: {words}\n"


def notes(found: Mapping[str, Any]) -> str:
    machine = found["environment"]
    lines = [LEGEND, machine_line(machine, "trl")]
    lines += [f"{name}: skipped, {reason}" for name, reason in found["skipped"].items()]
    if machine["load_average"] > 0.5:
        lines.append(f"other processes ran at the start (load {machine['load_average']:.1f}): times are not to be kept")
    return "\n".join(lines)


def check_plot(path: Path) -> None:
    """Raises a :class:`UserError` for a file of a kind that is not drawn."""
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"--plot: got {path.name!r}; give a file that ends with .png or .svg")


def plot(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Useful tokens a second of each way over ours, a group of bars for each case."""
    from fedllm_bench.report.style import METADATA, canvas, legend_below

    names = list(dict.fromkeys(name for one in found for name in one["ratios"]))
    with canvas(max(4.4, 1.5 + 1.1 * len(found)), 3.2) as (figure, axes):
        for place, name in enumerate(names):
            shown = [(i, one["ratios"][name]) for i, one in enumerate(found) if name in one["ratios"]]
            heights = [1 / ratio["median"] for _, ratio in shown]
            ends = [(1 / ratio["largest"], 1 / ratio["least"]) for _, ratio in shown]
            bars = [[height - low for height, (low, _) in zip(heights, ends, strict=True)],
                    [high - height for height, (_, high) in zip(heights, ends, strict=True)]]  # fmt: skip
            at = [i + 0.8 * (place + 0.5) / len(names) - 0.4 for i, _ in shown]
            axes.bar(at, heights, 0.75 / len(names), yerr=bars, label=name, color=COLOURS.get(name, OTHERS))
        axes.set_xticks(range(len(found)), [f"{one['case']}\n{one['loss']}" for one in found])
        axes.set_ylabel("speed of a round, ours is 1")
        legend_below(figure, ncols=len(names))
        content = io.BytesIO()
        kind = path.suffix[1:]
        figure.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    make_folder(path.parent)
    write_bytes(path, content.getvalue())
