"""From trials to tune.json (docs/tuning.md): what was tried, what was chosen, and how that is said in a submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from fedllm_bench.common.text import counted, number
from fedllm_bench.config.run_labels import base_label, is_invented
from fedllm_bench.diversity.insight.association import correlation
from fedllm_bench.tuning.confirming import Confirmation
from fedllm_bench.tuning.request import Opened
from fedllm_bench.tuning.searching import best_of, least
from fedllm_bench.tuning.space import Setting
from fedllm_bench.tuning.trials import DEFAULT, Trial

TUNE_VERSION = 1
METHOD_OF = {
    "tpe": "the Tree-structured Parzen Estimator",
    "random": "random search",
    "halving": "successive halving",
}
LONGEST_SENTENCE = 2000  # of a statement in a submission


def tune_payload(opened: Opened, trials: Sequence[Trial], confirmation: Confirmation | None) -> dict[str, Any]:
    """The whole of tune.json; `confirmation` is None while the search goes on."""
    metric = opened.asked.metric
    chosen = best_of(trials, metric, opened.budgets[-1])
    return {
        "tune_version": TUNE_VERSION,
        "tune": _about(opened, trials),
        "trials": [_trial(each, opened) for each in trials],
        "chosen": None if chosen is None else {"number": chosen.number, "setting": dict(chosen.setting)},
        "correlations": _correlations(trials, metric),
        "confirmation": None if confirmation is None else asdict(confirmation),
        "tuning": "" if chosen is None else tuning_sentence(opened, trials, chosen, confirmation),
    }


def _about(opened: Opened, trials: Sequence[Trial]) -> dict[str, Any]:
    asked, config = opened.asked, opened.first.config
    known = next((each.metrics[asked.metric] for each in trials if each.metrics), {})
    return {
        "dataset": opened.first.split.name,
        "asked": asked.run.dataset,
        "split_hash": opened.first.split.hash,
        "world_seed": config.data.world_seed if _has_world(opened) else None,
        "method": asked.method,
        **{key: getattr(config, key) for key in ("profile", "track", "variant", "engine")},
        "model": config.model.name,
        "base": base_label(config.model, config.adapter),
        "space": [vars(each) for each in asked.space],
        "settings": asked.run.settings_of(asked.method),
        "search": asked.search,
        "optuna": version("optuna"),
        "trials": asked.trials,
        "budget": opened.budget_key,
        "budgets": list(opened.budgets),
        "seeds": list(asked.run.seeds),
        "metric": asked.metric,
        "unit": known.get("unit", ""),
        "higher_is_better": not least(trials, asked.metric),
        "default": dict(opened.default),
        "outside": [each.key for each in asked.space if not each.holds(opened.default[each.key])],
        "hash": opened.folder.name.removeprefix("tune-"),
    }


def _has_world(opened: Opened) -> bool:
    return is_invented(opened.first.split.name) and opened.asked.run.split is None


def _trial(each: Trial, opened: Opened) -> dict[str, Any]:
    return {
        "number": each.number,
        "budget": each.budget,
        "setting": dict(each.setting),
        "value": each.value(opened.asked.metric),
        "metrics": {name: {key: found[key] for key in ("mean", "seeds")} for name, found in each.metrics.items()},
        "reason": each.reason,
        "train_seconds": round(each.seconds, 3),
        "runs": {str(cell.seed): str(cell.folder.relative_to(opened.first.root)) for cell in each.cells},
    }


def _correlations(trials: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    """Spearman's rho of the metric with each other one, over the trials of the budget that most of them have.

    Both count as the better the higher, so +1 is the same order by both. `rho` is None below five trials, and where
    one of the two is the same in all.
    """
    budgets = [each.budget for each in trials if each.metrics]
    if not budgets:
        return []
    budget = max(budgets, key=lambda value: (budgets.count(value), value))
    known = [each.metrics for each in trials if each.metrics and each.budget == budget]
    return [{"metric": name, "budget": budget, **_rho(known, metric, name)} for name in known[0] if name != metric]


def _rho(known: Sequence[Mapping[str, Any]], metric: str, other: str) -> dict[str, Any]:
    pairs = [(_goodness(each[metric]), _goodness(each[other])) for each in known]
    both = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    found = correlation(both[:, 0], both[:, 1][None, :])
    kept = ("rho", "low", "high", "interval", "p_value")
    values = {} if found is None else found.to_dict()
    return {"n": len(both), **{key: values.get(key) for key in kept}}


def _goodness(entry: Mapping[str, Any]) -> float | None:
    mean: float | None = entry["mean"]
    return mean if mean is None or entry["higher_is_better"] else -mean


# --- how it is said


def shown_setting(setting: Setting) -> str:
    """ "method.mu=0.01, local.lr=0.004"."""
    return ", ".join(f"{key}={shown_choice(value)}" for key, value in setting.items())


def shown_choice(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def tuning_sentence(opened: Opened, trials: Sequence[Trial], chosen: Trial, confirmation: Confirmation | None) -> str:
    """What `submit --tuning` is given: what was searched, how, on what, on which seeds, and what came of it."""
    asked = opened.asked
    tried = len({each.number for each in trials})
    space = "; ".join(each.words for each in asked.space)
    shared = [word for word in asked.run.settings_of(asked.method) if not word.startswith("evaluation.local_clients=")]
    parts = [
        f"{space}: {counted(tried, 'setting')}, the preset's among them, by {METHOD_OF[asked.search]} "
        f"(optuna {version('optuna')}), chosen by {asked.metric} on {_on(opened)}, run seeds "
        f"{', '.join(map(str, asked.run.seeds))}, none of which is reported.",
        f"Budgets: {opened.budget_key}={', '.join(map(str, opened.budgets))}." if len(opened.budgets) > 1 else "",
        f"In all runs: {', '.join(shared)}." if shared else "",
        "Chosen: the preset." if chosen.number == DEFAULT else f"Chosen: {shown_setting(chosen.setting)}.",
        confirmation.sentence if confirmation is not None and confirmation.comparison is not None else "",
    ]
    text = " ".join(filter(None, parts))
    return text if len(text) <= LONGEST_SENTENCE else f"{text[: LONGEST_SENTENCE - 3]}..."


def _on(opened: Opened) -> str:
    split = opened.first.split
    if _has_world(opened):
        return f"{split.name} (profile mini, world seed {opened.first.config.data.world_seed}, which is not reported)"
    return f"held-out rows of {split.name} (split {split.hash[:10]}, profile {opened.first.config.profile})"


def correlation_line(found: Mapping[str, Any], metric: str) -> str:
    """ "rank correlation of heldout with mini_exact over 16 trials: +0.81 [+0.52, +0.93]"."""
    start = f"rank correlation of {metric} with {found['metric']} over {counted(found['n'], 'trial')}"
    if found["rho"] is None:
        return f"{start}: none (fewer than five trials, or one of the two is always the same)"
    limits = "[no interval]" if found["low"] is None else f"[{_plus(found['low'])}, {_plus(found['high'])}]"
    return f"{start}: {_plus(found['rho'])} {limits}"


def _plus(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
