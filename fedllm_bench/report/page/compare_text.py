"""A comparison of two sides as text: a table for each estimand, and a plain sentence for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import MISSING, change, counted, number, signed, wrapped
from fedllm_bench.report.tables import aligned

Row = Mapping[str, Any]
NOTE = (
    "d_z: the mean of the paired differences over their standard deviation. 80% power: the number of clients, "
    "questions or seeds with which a true difference as large as the one seen is found in four of five repeats."
)
WOULD_SHOW = "would show: the smallest true difference that is found in four of five repeats with what is there."


def comparison_text(payload: Mapping[str, Any], width: int = 100) -> str:
    lines = [f"{side.upper()}  {text}" for side in ("a", "b") for text in payload["sides"][side]]
    for note in payload["notes"]:
        lines += wrapped(note, width)
    methods, models = payload["methods"], payload["models"]
    if methods:
        lines += ["", *_heading(methods, width), *_sentences(methods, width), "", *_heading(models, width, brief=True)]
    else:
        lines += ["", *_heading(models, width), *_sentences(models, width)]
    hidden = [row for row in (models if methods else ()) if _would_show(row)]
    shown = f"{NOTE} {WOULD_SHOW}" if hidden else NOTE
    return "\n".join([*lines, "", *wrapped(shown, width)])


def _heading(rows: Sequence[Row], width: int, *, brief: bool = False) -> list[str]:
    """What the rows are of, and their table; a brief one has verdicts instead of sentences below it."""
    title = _of_methods(rows) if rows[0]["estimand"] == "methods" else _of_models(rows)
    table = [_columns(row, brief) for row in rows]
    return [*wrapped(title, width), "", *aligned([list(table[0]), *(list(row.values()) for row in table)])]


def _of_models(rows: Sequence[Row]) -> str:
    unit = " or ".join(dict.fromkeys(row["unit_of_n"] for row in rows))
    return f"These two models (items clustered by {unit}; another seed would give other models)"


def _of_methods(rows: Sequence[Row]) -> str:
    """How the p of the table were made; that there are none where no metric has differences to test."""
    n, tests = max(row["n"] for row in rows), sum(row["p_holm"] is not None for row in rows)
    if not n:
        return "These two methods (nothing to compare: no seed has a difference)"
    holm = f"p by Holm over {counted(tests, 'metric')}" if tests else "no metric has differences to test"
    return f"These two methods (t on {counted(n, 'paired seed difference')}; {holm})"


def _sentences(rows: Sequence[Row], width: int) -> list[str]:
    return ["", *(line for row in rows for line in wrapped(f"{_label(row)}: {row['sentence']}", width))]


def _columns(row: Row, brief: bool) -> dict[str, str]:
    columns = {
        "metric": _label(row),
        "A": number(row["mean_a"]),
        "B": number(row["mean_b"]),
        "A - B [95% CI]": change(row),
        "d_z": signed(row["d_z"]),
    }
    if row["estimand"] == "methods":
        columns["p (Holm)"] = MISSING if row["p_holm"] is None else f"{row['p_holm']:.3f}"
    columns["n"] = counted(row["n"], row["unit_of_n"])
    if brief:
        return columns | {"verdict": _brief(row)}
    return columns | {"80% power": MISSING if row["needed"] is None else f"{row['needed']:,}"}


def _brief(row: Row) -> str:
    if row["verdict"] in ("A", "B"):
        return f"{row['verdict']} better"
    return f"{row['verdict']}{_would_show(row)}"


def _would_show(row: Row) -> str:
    """The difference behind a verdict of not distinguishable; "80% power" is the column with a number of units."""
    if row["verdict"] != "not distinguishable" or row["detectable"] is None:
        return ""
    return f" ({number(row['detectable'])} would show)"


def _label(row: Row) -> str:
    inside = [f"judge {row['judge']}"] if row["judge"] else []
    if row["estimand"] == "models" and row["seed"] is not None:
        inside.append(f"seed {row['seed']}")
    name = f"{row['metric']} {'↑' if row['higher_is_better'] else '↓'}"
    return f"{name} ({', '.join(inside)})" if inside else name


def sentence(row: Row) -> str:
    """What the comparison says, in one plain sentence; of models or of methods, as the row is."""
    unscored = f"; {counted(row['n_unscored'], 'item')} without a score on one side in neither mean"
    return _verdict(row) + (unscored if row["n_unscored"] else "")


def _verdict(row: Row) -> str:
    units = counted(row["n"], row["unit_of_n"])
    subject = "method" if row["estimand"] == "methods" else "model"
    if row["verdict"] == "nothing in common":
        return f"nothing to compare: no {row['unit_of_n']} is scored on both sides"
    if row["verdict"] == "equal":
        return f"equal: no difference on any of {units}"
    if row["verdict"] == "no interval":
        return f"nothing can be said: {_no_interval(row)}"
    if row["verdict"] == "not distinguishable":
        return f"not distinguishable at n = {units}{_after_holm(row)}{_power(row)}"
    better = f"{subject} {row['verdict']} is better by {number(abs(row['mean']))} {_limits(row)} at n = {units}"
    return better + ("" if row["higher_is_better"] else " (lower is better)")


def _no_interval(row: Row) -> str:
    if row["n"] == 1:
        return f"n = 1 {row['unit_of_n']} has no interval"
    if row["no_interval"] and "equal" not in row["no_interval"]:
        return str(row["no_interval"])
    return f"the difference is {signed(row['mean'])} in each of {counted(row['n'], row['unit_of_n'])}"


def _limits(row: Row) -> str:
    """The interval of the size of the difference: [0.1, 0.5], also where A - B is negative."""
    low, high = (row["ci_low"], row["ci_high"]) if row["mean"] > 0 else (-row["ci_high"], -row["ci_low"])
    return f"[{_plain(low)}, {_plain(high)}]"


def _plain(value: float) -> str:
    return signed(value).removeprefix("+")


def _after_holm(row: Row) -> str:
    alone = row["p_value"] is not None and row["p_value"] < 0.05
    return " after Holm's correction" if alone else ""


def _power(row: Row) -> str:
    if row["needed"] is None or row["detectable"] is None:
        return ""
    seen, shown = number(abs(row["mean"])), number(row["detectable"])
    return f"; with 80% power that many tell a difference of {shown} apart, and one of {seen} needs {row['needed']:,}"
