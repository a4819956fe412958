"""grid.json as one table for the terminal and as Markdown for a README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import MISSING, change, counted, duration, flop, number, size, wrapped
from fedllm_bench.report.grid.stopped import best_rounds, ended
from fedllm_bench.report.interval_words import few_seeds, how, why_none
from fedllm_bench.report.labels import what_ran
from fedllm_bench.results.grid_results import BASE, REFERENCES
from fedllm_bench.results.sample_words import about_sample
from fedllm_bench.scores.seeds import CLEAR, NOT_DISTINGUISHABLE

Payload = Mapping[str, Any]
Entry = Mapping[str, Any]
SHORT = ("mini_exact_facts",)  # beside each metric itself
MORE = (*SHORT, "heldout_worst_tenth", "heldout_unseen", "mini_exact_facts_others", "mini_exact_arithmetic")
MARKS = {CLEAR: "●", NOT_DISTINGUISHABLE: "○"}
TABLE_WIDTH = 110
FLOPS = "train_flops"  # grid.json of before has none


def shown_views(payload: Payload, views: Sequence[str] = SHORT) -> list[str]:
    """The entries of a table: each metric itself, and those of `views` that there are."""
    metrics = payload["metrics"]
    main = [name for name in metrics if not any(name.startswith(f"{other}_") for other in metrics)]
    wanted = {*main, *views} - {"perplexity"}  # the held-out loss, exponentiated
    return [name for name in metrics if name in wanted]


def rows_of(payload: Payload) -> list[str]:
    """The base model and the methods asked for, also those of which no cell ended well."""
    return [BASE, *payload["grid"]["methods"]]


def references(payload: Payload) -> list[str]:
    return [name for name in REFERENCES if payload["references"][name] is None]


def terminal_table(payload: Payload, width: int = TABLE_WIDTH) -> str:
    """A plain-text table with its legend; without what lies over seeds where `width` columns are too few."""
    views = shown_views(payload)
    several = len(payload["grid"]["seeds"]) > 1
    table = _table(payload, views, wide=several)
    narrow = several and max(map(len, table)) > width
    if narrow:
        table = _table(payload, views, wide=False)
    return with_legend(payload, table, ["too narrow here for ±, which table.txt has"] if narrow else [], width)


def with_legend(payload: Payload, table: Sequence[str], notes: Sequence[str], width: int) -> str:
    """A table under its title, and what its signs mean below it, after which come `notes`."""
    legend = [line for item in [*_legend(payload, shown_views(payload)), *notes] for line in wrapped(item, width)]
    return "\n".join([*wrapped(title(payload), width), "", *table, "", *legend]) + "\n"


def title(payload: Payload) -> str:
    grid = payload["grid"]
    methods, seeds = counted(len(grid["methods"]), "method"), counted(len(grid["seeds"]), "seed")
    clients = payload["data"]["num_clients"]
    variant = "" if grid["variant"] == "paper" else f" · variant {grid['variant']}"
    ran = what_ran(grid, clients)
    return f"{grid['dataset']} · {methods} · {seeds} · {counted(clients, 'client')} · {ran}{variant}"


def name_of(name: str, entry: Entry) -> str:
    return f"{name} {'↑' if entry['higher_is_better'] else '↓'}"


def _table(payload: Payload, views: Sequence[str], *, wide: bool) -> list[str]:
    """Aligned over all views; each view is a line with its name and the rows of the methods."""
    others = references(payload)
    half = " ±seeds" if wide else ""
    rows: list[list[str]] = [["", "mean ±sd" if wide else "mean", *(f"minus {o} [clients]{half}  " for o in others)]]
    for view in views:
        entry = payload["metrics"][view]
        rows.append([f"{name_of(view, entry)}, {entry['unit']}"])
        rows += [[f"  {name}", *_cells(entry, name, others, wide=wide)] for name in rows_of(payload)]
    widths = [max(len(row[i]) for row in rows if len(row) > 1) for i in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
    return row[0] if len(row) == 1 else "  ".join(cells).rstrip()


def _cells(entry: Entry, name: str, others: Sequence[str], *, wide: bool) -> list[str]:
    row = entry["methods"].get(name)
    if row is None:
        return ["failed", *(MISSING for _ in others)]
    return [value(row, spread=wide and name != BASE), *(_difference(row, other, wide=wide) for other in others)]


def value(row: Mapping[str, Any], *, spread: bool = True) -> str:
    """ "0.218 ±0.004", with * where items are unscored."""
    star = "*" if row["n_unscored"] else ""
    sd = f" ±{number(row['sd'])}" if spread and row["sd"] is not None else ""
    return f"{number(row['mean'])}{star}{sd}"


def _difference(row: Mapping[str, Any], other: str, *, wide: bool) -> str:
    """ "-0.037 [-0.065, -0.008] ±0.012 ●"; columns of equal width as long as numbers are below 100."""
    found = row["differences"].get(other)
    if found is None:
        return MISSING
    text = change(found).ljust(23)
    if wide:
        text += f" {half_width(found['seeds']):6}"
    return f"{text} {mark(found)}"


def mark(found: Mapping[str, Any]) -> str:
    """ "●", or "○ 0.021" with the difference that would have shown."""
    sign = MARKS.get(found["verdict"], "")
    shown = found.get("detectable")  # grid.json of before has none
    return sign if found["verdict"] != NOT_DISTINGUISHABLE or shown is None else f"{sign} {number(shown)}"


def half_width(seeds: Mapping[str, Any]) -> str:
    """ "±0.012": half of the interval over seeds; empty with one seed."""
    return "" if seeds["ci_low"] is None else f"±{number((seeds['ci_high'] - seeds['ci_low']) / 2)}"


# --- under the table


def _legend(payload: Payload, views: Sequence[str]) -> list[str]:
    return [
        "↓ lower is better, ↑ higher is better",
        *about_intervals(payload, views),
        *about_sample(payload["data"].get("sample")),  # grid.json of before has none
        *_about_local(payload, views),
        *_about_own(payload),
        *_absent(payload),
        *ended(payload),
        *best_rounds(payload),
        *_failures(payload),
        *_unscored(payload, views),
    ]


def about_intervals(payload: Payload, views: Sequence[str]) -> list[str]:
    """How the intervals of the shown views were made, what a mark means, and how many comparisons there are."""
    found = list(_differences(payload, views))
    if not found:
        return ["no differences: neither fedavg nor local is among the methods, or nothing else is"]
    seeds = payload["grid"]["seeds"]
    several = any(each["seeds"]["n"] > 1 for each in found)
    over_seeds = (
        f"; ±: standard deviation, and half of the 95% interval of Student's t, over {from_to_seeds(seeds)}"
        if several
        else f"; seeds were not resampled (there is one, {seeds[0]}), so nothing is said of other seeds"
    )
    held = "both intervals exclude 0" if several else "the interval excludes 0"
    return [
        f"minus: paired per client and seed; [95% interval over clients: {how(found)}]{over_seeds}",
        f"{MARKS[CLEAR]} clear: {held}; {MARKS[NOT_DISTINGUISHABLE]} not distinguishable, which is not equal; after "
        f"{MARKS[NOT_DISTINGUISHABLE]} the smallest true difference that is found in four of five tries (80% power)",
        *(few_seeds(min(each["seeds"]["n"] for each in found)) if several else []),
        *why_none({f"{view}, {name}": each for view, name, each in _named(payload, views)}),
        f"{counted(len(found), 'difference')} shown, each at its own 95%; nothing is claimed over all of them",
    ]


def from_to_seeds(seeds: Sequence[int]) -> str:
    return f"seeds {', '.join(map(str, seeds))}"


def _differences(payload: Payload, views: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    yield from (found for _, _, found in _named(payload, views))


def _named(payload: Payload, views: Sequence[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(view, reference, difference) of all that have one."""
    for view in views:
        for row in payload["metrics"][view]["methods"].values():
            found = ((view, f"minus {name}", each) for name, each in row["differences"].items())
            yield from (each for each in found if each[2]["mean"] is not None)


def _about_local(payload: Payload, views: Sequence[str]) -> list[str]:
    rows = [payload["metrics"][view]["methods"].get("local") for view in views]
    most, total = max((row["n"] for row in rows if row), default=0), payload["data"]["num_clients"]
    if not most or most >= total:
        return []
    return [
        f"local: {most} of {total} clients in each seed, each trained alone; minus local is over those clients only"
    ]


def _about_own(payload: Payload) -> list[str]:
    """Of methods whose rows are no single model's; grid.json of before does not name them."""
    named = ", ".join(payload.get("own_adapters", ()))
    return [f"{named}: each client is scored under an adapter of its own, not under one for all"] if named else []


def _absent(payload: Payload) -> list[str]:
    return [f"no column minus {name}: {why}" for name, why in payload["references"].items() if why is not None]


def _failures(payload: Payload) -> list[str]:
    """One line for each method and reason, and how many seeds are left."""
    seeds: dict[tuple[str, str], list[str]] = {}
    counts = Counter(cell["method"] for cell in payload["cells"] if cell["reason"] is None)
    for cell in payload["cells"]:
        if cell["reason"] is not None:
            seeds.setdefault((cell["method"], cell["reason"]), []).append(str(cell["seed"]))
    total = counted(len(payload["grid"]["seeds"]), "seed")
    return [
        f"failed: {method} seed {', '.join(of)}: {reason}"
        + (f" (its row is over {counts[method]} of {total})" if counts[method] else "")
        for (method, reason), of in seeds.items()
    ]


def _unscored(payload: Payload, views: Sequence[str]) -> list[str]:
    lines = []
    for view in views:
        rows = payload["metrics"][view]["methods"]
        counts = [
            f"{name} {row['n_unscored']} of {row['n_unscored'] + row['n_scored']}"
            for name, row in rows.items()
            if row["n_unscored"]
        ]
        lines += [f"* items not scored, in no mean: {view}: {', '.join(counts)}"] if counts else []
    return lines


# --- Markdown


def markdown(payload: Payload) -> str:
    """One table for each view, and one of costs; each can be copied by itself."""
    views = shown_views(payload, MORE)
    parts = [f"{title(payload)}\n", *(_markdown_view(payload, view) for view in views), _markdown_cost(payload)]
    notes = [f"- {line}" for line in _legend(payload, views)]
    return "\n".join([*parts, "\n".join(notes).replace("*", r"\*")]) + "\n"


def _markdown_view(payload: Payload, view: str) -> str:
    entry, others = payload["metrics"][view], references(payload)
    header = [f"{name_of(view, entry)} ({entry['unit']})", "mean ± sd"]
    header += [f"minus {other} [95% clients] [95% seeds]" for other in others]
    rows = [[name, *_markdown_cells(entry, name, others)] for name in rows_of(payload)]
    return _markdown_table(header, rows)


def _markdown_cells(entry: Entry, name: str, others: Sequence[str]) -> list[str]:
    row = entry["methods"].get(name)
    if row is None:
        return ["failed", *(MISSING for _ in others)]
    shown = value(row, spread=name != BASE).replace("*", r"\*").replace(" ±", " ± ")
    return [shown, *(_markdown_difference(row["differences"].get(other)) for other in others)]


def _markdown_difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return MISSING
    over_seeds = change(found["seeds"]).partition(" ")[2] if found["seeds"]["n"] > 1 else ""
    return f"{change(found)} {over_seeds} {mark(found)}".replace("  ", " ").strip()


def _markdown_cost(payload: Payload) -> str:
    header = ["cost of a run, mean over seeds", "sent by clients", "sent to clients", "training (not compared)", "FLOP"]
    rows = [
        [name, size(cost["bytes_up"]), size(cost["bytes_down"]), duration(cost["train_seconds"]), flop(cost.get(FLOPS))]
        for name, cost in payload["cost"].items()
    ]
    return _markdown_table(header, rows)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
