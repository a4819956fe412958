"""results.json as a table for the terminal and as a Markdown table for a README."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedllm_bench.report.names import short_name

Payload = Mapping[str, Any]
Entry = Mapping[str, Any]
Column = tuple[str, Callable[[str, Entry], str]]

SIDES = {"before": "base", "after": "after", "local": "local"}
MISSING = "-"
NAMED_CLIENTS = 12  # more names than these would hide the table


def number(value: float | None) -> str:
    """Three decimals; one where they would be noise (a perplexity of 1234.6)."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def change(summary: Mapping[str, Any] | None) -> str:
    """A paired difference with its interval: "+0.508 [+0.444, +0.567]"."""
    if summary is None or summary["mean"] is None:
        return MISSING
    if summary["ci_low"] is None:
        return f"{_signed(summary['mean'])} [no interval]"
    return f"{_signed(summary['mean'])} [{_signed(summary['ci_low'])}, {_signed(summary['ci_high'])}]"


def _signed(value: float) -> str:
    text = number(abs(value))
    if not float(text):
        return text  # no "-0.000"
    return ("-" if value < 0 else "+") + text


def size(num_bytes: float) -> str:
    """Decimal units: 5200000 is "5.2 MB"."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def terminal_table(payload: Payload, width: int = 100) -> str:
    """A plain-text table with its legend; one wider than `width` columns is split in two."""
    metrics: Mapping[str, Entry] = payload["metrics"]
    local = any(entry["local"] for entry in metrics.values())
    columns = _columns(local)
    table = _aligned(columns, metrics)
    if len(table[0]) > width and local:
        with_local = {name: entry for name, entry in metrics.items() if entry["local"]}
        table = [
            *_aligned(_columns(False), metrics),
            "",
            *_aligned([columns[0], *_local_columns()], with_local),
        ]
    legend = [*_legend(payload, local), *_unscored(metrics), *_cost(payload["cost"])]
    return "\n".join([_title(payload), "", *table, "", *(line for item in legend for line in _wrapped(item, width))])


def _columns(local: bool) -> list[Column]:
    value_local, change_local = _local_columns()
    return [
        ("metric", _name),
        ("base", lambda _, entry: _marked(entry["before"])),
        ("after", lambda _, entry: _marked(entry["after"])),
        *([value_local] if local else []),
        ("after - base [95% CI]", lambda _, entry: change(entry["difference"])),
        *([change_local] if local else []),
    ]


def _local_columns() -> tuple[Column, Column]:
    return (
        ("local", lambda _, entry: _marked(entry["local"])),
        ("after - local [95% CI]", lambda _, entry: change(entry["difference_to_local"])),
    )


def _name(name: str, entry: Entry) -> str:
    return f"{name} {'↑' if entry['higher_is_better'] else '↓'}"


def _marked(summary: Mapping[str, Any] | None) -> str:
    """A space keeps the digits of unmarked numbers in line with those of marked ones."""
    if summary is None:
        return f"{MISSING} "
    return number(summary["mean"]) + ("*" if summary["n_unscored"] else " ")


def _aligned(columns: Sequence[Column], metrics: Mapping[str, Entry]) -> list[str]:
    rows = [[title for title, _ in columns]]
    rows += [[cell(name, entry) for _, cell in columns] for name, entry in metrics.items()]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        row[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
    ]
    return "  ".join(cells)


def _title(payload: Payload) -> str:
    run = payload["run"]
    world = " and invented world" if run["dataset"].startswith("mini-") else ""
    mini = f" (embedded model{world})" if run["track"] == "mini" else ""
    return f"{run['dataset']} · {run['method']} · seed {run['seed']} · profile {run['profile']}{mini}"


def _legend(payload: Payload, local: bool) -> list[str]:
    metrics = payload["metrics"]
    lines = [_units(metrics), "↓ lower is better, ↑ higher is better", _how(payload)]
    return [*lines, _about_local(payload)] if local else lines


def _units(metrics: Mapping[str, Entry]) -> str:
    """The metrics of each unit; views are covered by the name of their metric."""
    named: dict[str, list[str]] = {}
    for name, entry in metrics.items():
        names = named.setdefault(entry["unit"], [])
        if not any(name.startswith(f"{other}_") for other in names):
            names.append(name)
    return "unit: " + "; ".join(f"{unit} ({', '.join(names)})" for unit, names in named.items())


def _how(payload: Payload) -> str:
    entries = payload["metrics"].values()
    summaries = [s for entry in entries for s in (entry["difference"], entry["difference_to_local"]) if s]
    units = sorted({summary["unit_of_resampling"] for summary in summaries}) or ["client"]
    kinds = {kind: _numbers(s["n"] for s in summaries if s["interval"] == kind) for kind in ("bootstrap", "t", "none")}
    names = {"bootstrap": "bootstrap over {} clients", "t": "Student's t over {} clients"}
    used = [text.format(kinds[kind]) for kind, text in names.items() if kinds[kind]]
    method = "; ".join(used) if used else "none could be computed"
    return f"[95% CI]: paired per {', '.join(units)}; {method}"


def _numbers(counts: Iterable[int]) -> str:
    """ "38", or "4 to 38"."""
    found = sorted(set(counts))
    if not found:
        return ""
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _about_local(payload: Payload) -> str:
    sample = [short_name(client) for client in payload["data"]["local_clients"]]
    named = f" ({', '.join(sample)})" if len(sample) <= NAMED_CLIENTS else ""
    n = _numbers(entry["local"]["n"] for entry in payload["metrics"].values() if entry["local"])
    return (
        f"local: {n} clients, each trained alone{named}; after - local is over those clients only, "
        "so it is not the difference of the two columns"
    )


def _unscored(metrics: Mapping[str, Entry]) -> list[str]:
    """One line for each metric with starred numbers."""
    lines = []
    for name, entry in metrics.items():
        starred = {label: entry[side] for side, label in SIDES.items() if entry[side] and entry[side]["n_unscored"]}
        counts = [f"{label} {s['n_unscored']} of {s['n_unscored'] + s['n_scored']}" for label, s in starred.items()]
        lines += [f"* items not scored, in no mean: {name}: {', '.join(counts)}"] if counts else []
    return lines


def _cost(cost: Mapping[str, Any]) -> list[str]:
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in cost["seconds"].items())
    gpu = cost["peak_gpu_bytes"]
    on_gpu = f", {size(gpu)} on the GPU" if gpu is not None else ""
    return [
        f"communication: {size(cost['bytes_up'])} up, {size(cost['bytes_down'])} down",
        f"wall time: {stages} (total {duration(sum(cost['seconds'].values()))})",
        f"peak memory: {size(cost['peak_memory_bytes'])}{on_gpu}",
    ]


def _wrapped(line: str, width: int) -> list[str]:
    """Broken at spaces, continued two columns in; a word wider than `width` stays whole."""
    lines = [""]
    for word in line.split(" "):
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def markdown_table(payloads: Sequence[Payload], metrics: Sequence[str] | None = None) -> str:
    """One row for each run and metric; `metrics` None means all, and those that a run lacks are left out."""
    header = ["run", "metric", "base", "after", "local", "after - base [95% CI]", "after - local [95% CI]"]
    lines = [header, ["---", "---", "---:", "---:", "---:", "---:", "---:"]]
    for payload in payloads:
        lines += _markdown_rows(payload, payload["metrics"] if metrics is None else metrics)
    starred = "*" in "".join(cell for line in lines[2:] for cell in line[2:5])
    note = ["", "\\* some items could not be scored; they are in no mean."] if starred else []
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), *note]) + "\n"


def _markdown_rows(payload: Payload, names: Iterable[str]) -> list[list[str]]:
    run, metrics = payload["run"], payload["metrics"]
    label = f"{run['dataset']} {run['method']} seed {run['seed']}"
    rows = []
    for name in names:
        if name in metrics:
            entry = metrics[name]
            values = [_marked(entry[side]).strip().replace("*", "\\*") for side in SIDES]
            changes = [change(entry["difference"]), change(entry["difference_to_local"])]
            rows.append([label, _name(name, entry), *values, *changes])
    return rows
