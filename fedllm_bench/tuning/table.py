"""The trials as a table on the terminal, and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.csv_text import csv_text
from fedllm_bench.common.text import MISSING, counted, number, wrapped
from fedllm_bench.report.tables import aligned
from fedllm_bench.tuning.payload import correlation_line, shown_choice
from fedllm_bench.tuning.trials import DEFAULT

Payload = Mapping[str, Any]
TABLE_WIDTH = 110


def tune_text(payload: Payload, width: int = TABLE_WIDTH) -> str:
    """Trials of the largest budget first, the best on top; then what was chosen, and what that is worth."""
    rows = [_row(each, payload) for each in in_order(payload)]
    header = list(rows[0])
    table = aligned([header, *([row[name] for name in header] for row in rows)])
    notes = [line for note in _notes(payload) for line in wrapped(note, width)]
    return "\n".join([*wrapped(_title(payload), width), "", *table, "", *notes]) + "\n"


def in_order(payload: Payload) -> list[Mapping[str, Any]]:
    sign = -1 if payload["tune"]["higher_is_better"] else 1

    def place(each: Mapping[str, Any]) -> tuple[int, bool, float, int]:
        value = each["value"]
        return -each["budget"], value is None, 0.0 if value is None else sign * value, each["number"]

    return sorted(payload["trials"], key=place)


def _title(payload: Payload) -> str:
    tune = payload["tune"]
    seeds = ", ".join(map(str, tune["seeds"]))
    world = "" if tune["world_seed"] is None else f", world {tune['world_seed']}"
    tried = len({each["number"] for each in payload["trials"]})
    return (
        f"{tune['dataset']} · {tune['method']} · {counted(tried, 'trial')} by {tune['search']} · "
        f"seeds {seeds}{world} (never reported) · profile {tune['profile']}"
    )


def _row(each: Mapping[str, Any], payload: Payload) -> dict[str, str]:
    tune = payload["tune"]
    names = [tune["metric"], *(found["metric"] for found in payload["correlations"])]
    budget = {tune["budget"]: str(each["budget"])} if len(tune["budgets"]) > 1 else {}
    return {
        "trial": _name(each, payload),
        **{key: shown_choice(value) for key, value in each["setting"].items()},
        **budget,
        **{name: _mean(each, name) for name in names},
    }


def _name(each: Mapping[str, Any], payload: Payload) -> str:
    chosen = payload["chosen"]
    is_chosen = chosen and each["number"] == chosen["number"] and each["budget"] == payload["tune"]["budgets"][-1]
    default = " default" if each["number"] == DEFAULT else ""
    return f"{each['number']}{default}{' chosen' if is_chosen else ''}"


def _mean(each: Mapping[str, Any], name: str) -> str:
    if each["reason"]:
        return "failed"
    return number(each["metrics"][name]["mean"]) if name in each["metrics"] else MISSING


def _notes(payload: Payload) -> Iterator[str]:
    tune, chosen = payload["tune"], payload["chosen"]
    way = "higher" if tune["higher_is_better"] else "lower"
    yield f"{tune['metric']}, {way} is better: the mean over {counted(len(tune['seeds']), 'seed')}"
    for found in payload["correlations"]:
        yield correlation_line(found, tune["metric"]) + (
            f" ({tune['budget']}={found['budget']})" if len(tune["budgets"]) > 1 else ""
        )
    if any(found["rho"] is not None for found in payload["correlations"]):
        yield "+1: both put the trials in the same order, from the worst to the best; 95% intervals, trials as units"
    for key in tune["outside"]:
        yield f"the default {key}={shown_choice(tune['default'][key])} lies outside of the space"
    for each in payload["trials"]:
        if each["reason"]:
            yield f"failed: trial {each['number']}: {each['reason']}"
    if chosen is None:
        yield "nothing was chosen: no trial with the whole budget has a value"
    if payload["confirmation"] is not None:
        yield payload["confirmation"]["sentence"]


def trials_csv(payload: Payload) -> str:
    """One line for each trial and budget: setting, value, and each metric's mean and the means of its seeds."""
    lines = [_line(each, payload) for each in payload["trials"]]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return csv_text(columns, lines)


def _line(each: Mapping[str, Any], payload: Payload) -> dict[str, Any]:
    start = {"trial": each["number"], payload["tune"]["budget"]: each["budget"], **each["setting"]}
    chosen = payload["chosen"]
    about = {"chosen": bool(chosen) and chosen["number"] == each["number"], "value": each["value"]}
    return {
        **start,
        **about,
        **_means(each["metrics"]),
        "train_seconds": each["train_seconds"],
        "reason": each["reason"],
        "runs": " ".join(each["runs"].values()),
    }


def _means(metrics: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in metrics.items():
        found[name] = entry["mean"]
        found |= {f"{name}_seed_{seed}": value for seed, value in entry["seeds"].items()}
    return found


def rows_of_trials(payload: Payload) -> Sequence[Mapping[str, Any]]:
    """The lines of trials.csv as dictionaries, for pandas."""
    return [_line(each, payload) for each in payload["trials"]]
