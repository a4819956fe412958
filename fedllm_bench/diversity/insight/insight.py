"""Does heterogeneity predict the outcome? Gains of clients over what clients are, as JSON data (docs/insight.md)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.insight.association import FEWEST, Resamples, correlation, detectable, regression
from fedllm_bench.diversity.insight.gains import OUTCOMES, RunGains
from fedllm_bench.diversity.insight.predictors import NAMES, Client
from fedllm_bench.scores.significance import holm

VERSION = 1
ALL = "all"
Floats = NDArray[np.float64]


def insight(
    split: Split, runs: Sequence[RunGains], clients: Sequence[Client], embedder: str, resamples: Resamples | None = None
) -> dict[str, Any]:
    """insight.json. `embedder` names what the distances were measured with; runs are of one split and one metric."""
    chosen = resamples or Resamples()
    rows = sum(client.train + client.heldout for client in split.manifest.clients)
    first = runs[0].measured
    return {
        "insight_version": VERSION,
        "split": {"name": split.name, "hash": split.hash, "task": split.task, "rows": rows, "clients": len(clients)},
        "metric": {"name": runs[0].metric, "unit": first.unit, "higher_is_better": first.higher_is_better},
        "settings": {"embedder": embedder, **vars(chosen)},
        "runs": [_run(run) for run in runs],
        "clients": [_client(client, runs) for client in clients],
        "outcomes": {outcome: _outcome(outcome, runs, clients, chosen) for outcome in OUTCOMES},
    }


def _run(run: RunGains) -> dict[str, Any]:
    return {
        "folder": str(run.run.path),
        "method": run.run.method,
        "seed": run.run.config.seed,
        "baseline": None if run.baseline is None else str(run.baseline),
        "items": sum(score.is_scored for score in run.measured.scores),
    }


def _client(client: Client, runs: Sequence[RunGains]) -> dict[str, Any]:
    gains = {
        outcome: {method: _mean(client.id, outcome, of) for method, of in _by_method(runs).items()}
        for outcome in OUTCOMES
    }
    return {**vars(client), "gains": gains}


def _mean(client: str, outcome: str, runs: Sequence[RunGains]) -> float | None:
    found = [run.gains[outcome][client] for run in runs if client in run.gains.get(outcome, {})]
    return statistics.fmean(found) if found else None


def _by_method(runs: Sequence[RunGains]) -> dict[str, list[RunGains]]:
    """Method -> its runs, and under ALL every run where there are several methods."""
    methods = dict.fromkeys(run.run.method for run in runs)
    found = {method: [run for run in runs if run.run.method == method] for method in methods}
    return found | ({ALL: list(runs)} if len(found) > 1 else {})


def _outcome(outcome: str, runs: Sequence[RunGains], clients: Sequence[Client], chosen: Resamples) -> dict[str, Any]:
    """Method -> what was found; {"skipped": why} where no run has such a gain."""
    having = [run for run in runs if run.gains.get(outcome)]
    if not having:
        return {"skipped": SKIPPED[outcome]}
    return {method: _result(outcome, of, clients, chosen) for method, of in _by_method(having).items()}


SKIPPED = {
    "local": "no run of clients alone with the same seed and settings; make one with `fedllm-bench bench DATASET local`"
    " (the same SEED and --set) beside it, or name its folder too",
    "base": "the run has no scores of its base model",
}


def _result(outcome: str, runs: Sequence[RunGains], clients: Sequence[Client], chosen: Resamples) -> dict[str, Any]:
    """Over the clients with a gain in every run; others are counted."""
    there = [client for client in clients if all(client.id in run.gains[outcome] for run in runs)]
    gains = np.array([[run.gains[outcome][client.id] for client in there] for run in runs], dtype=np.float64)
    mean = gains.mean(axis=0) if there else np.zeros(0)
    return {
        "runs": len(runs),
        "clients": len(there),
        "left_out": len(clients) - len(there),
        "mean_gain": float(mean.mean()) if there else None,
        "sd": float(mean.std(ddof=1)) if len(there) > 1 else None,
        "worse_off": int((mean < 0).sum()),
        "detectable_rho": detectable(len(there)),
        "correlations": _correlations(there, gains, chosen),
        "regression": _regression(there, gains),
        "languages": _languages(there, mean),
    }


def _correlations(clients: Sequence[Client], gains: Floats, chosen: Resamples) -> dict[str, Any]:
    """Each predictor by itself; `p_holm` is corrected for their number."""
    found = {}
    for name in NAMES:
        values, kept = _predictor(name, clients)
        found[name] = correlation(values, gains[:, kept], chosen)
    adjusted = dict(zip(found, holm([one.p_value if one else None for one in found.values()]), strict=True))
    return {
        name: {"skipped": _why(name, clients)} if one is None else {**one.to_dict(), "p_holm": adjusted[name]}
        for name, one in found.items()
    }


def _predictor(name: str, clients: Sequence[Client]) -> tuple[Floats, list[int]]:
    """The values that are known, and the places of their clients."""
    values = [client.predictor(name) for client in clients]
    kept = [i for i, value in enumerate(values) if value is not None]
    return np.array([value for value in values if value is not None], dtype=np.float64), kept


def _why(name: str, clients: Sequence[Client]) -> str:
    count = len(_predictor(name, clients)[1])
    if count < FEWEST:
        return f"known of {count} clients; {FEWEST} are needed"
    return "it, or the gain, is equal for all clients"


def _regression(clients: Sequence[Client], gains: Floats) -> dict[str, Any]:
    """All predictors that differ between clients at once."""
    columns = {name: [client.predictor(name) for client in clients] for name in NAMES}
    known = {name: values for name, values in columns.items() if sum(value is not None for value in values) >= FEWEST}
    kept = [i for i in range(len(clients)) if all(values[i] is not None for values in known.values())]
    arrays = {name: np.array([values[i] for i in kept], dtype=np.float64) for name, values in known.items()}
    found = regression({name: a for name, a in arrays.items() if len(a) and np.ptp(a) > 0}, gains[:, kept])
    if found is None:
        return {"skipped": f"{len(kept)} clients are too few for {len(arrays)} predictors, or one follows from others"}
    return found.to_dict()


def _languages(clients: Sequence[Client], gains: Floats) -> list[dict[str, Any]]:
    """Mean gain of the clients of each main language, most clients first."""
    by_language: dict[str, list[float]] = {}
    for client, gain in zip(clients, gains, strict=True):
        by_language.setdefault(client.main_language, []).append(float(gain))
    rows = [
        {"language": name, "clients": len(of), "mean_gain": statistics.fmean(of)} for name, of in by_language.items()
    ]
    return sorted(rows, key=lambda row: (-int(str(row["clients"])), str(row["language"])))


def values_of(report: Mapping[str, Any], outcome: str, method: str, predictor: str) -> list[tuple[str, float, float]]:
    """(client, predictor, gain) of insight.json, of the clients that have both."""
    found = []
    for entry in report["clients"]:
        client = Client(**{key: value for key, value in entry.items() if key != "gains"})
        x, y = client.predictor(predictor), entry["gains"][outcome].get(method)
        if x is not None and y is not None:
            found.append((client.id, x, y))
    return found
