"""The table of offsite tuning on report.html: each metric plugged into the whole model, and on the emulator."""

from __future__ import annotations

from fedllm_bench.common.text import change
from fedllm_bench.report.page.tables import Table, TableCell, TableRow, arrow, summary_cell
from fedllm_bench.results.schema import Results


def offsite_table(results: Results | None) -> Table | None:
    """A row for each metric; None for a run of another kind."""
    if results is None or results.offsite is None:
        return None
    found = results.offsite
    on_emulator = [(name, entry, results.metrics[name]) for name, entry in found.metrics.items()]
    trained = found.left + found.right
    return Table(
        id="offsite",
        title="Plug-in and emulator",
        caption=f"Clients trained {trained} of {found.num_layers} layers on an emulator of {len(found.kept) - trained} "
        f"of the other {found.num_layers - trained} ({found.variant}). Plug-in: their layers in the whole model. "
        "Zero-shot: before training.",
        head=("metric", "model, zero-shot", "plug-in", "emulator, zero-shot", "emulator", "change on it, paired"),
        rows=tuple(
            TableRow(
                name=f"{name} {arrow(entry.higher_is_better)}",
                cells=(
                    *map(summary_cell, (plugged.before, plugged.after, entry.before, entry.after)),
                    TableCell(text=change(vars(entry.difference))),
                ),
            )
            for name, entry, plugged in on_emulator
        ),
    )
