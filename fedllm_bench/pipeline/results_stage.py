"""The last stage of a run: results.json and the figures, from the files of the stages before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedllm_bench.common import files
from fedllm_bench.common.own_memory import peak_bytes
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig
from fedllm_bench.config.run_labels import base_label, offsite_label
from fedllm_bench.data.pairs import whole
from fedllm_bench.methods.fedem import num_mixed
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.sample import sample_block
from fedllm_bench.pipeline.clock import Clock
from fedllm_bench.pipeline.offsite_stage import offsite_block
from fedllm_bench.pipeline.run_cost import RawSides as RawSides
from fedllm_bench.pipeline.run_cost import energy_of_run, flops_of_run
from fedllm_bench.report.labels import in_figure
from fedllm_bench.results.clock import clock_block
from fedllm_bench.results.cuts import cuts_block
from fedllm_bench.results.early_stop import checked, early_stop_block, kept_round
from fedllm_bench.results.per_client import gains, over_rounds, scores_of
from fedllm_bench.results.privacy import communication_block, privacy_block
from fedllm_bench.results.robustness import aggregation_block, attack_block, attack_mark
from fedllm_bench.results.run_results import (
    ScoreSet,
    client_rows,
    metric_entry,
    metrics_of,
    results_payload,
    write_results,
)
from fedllm_bench.runs.client_rounds import FILE
from fedllm_bench.runs.folder import RESULTS, RunFolder
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.personalise import local_of
from fedllm_bench.runs.validation import num_checked_rows
from fedllm_bench.training.clock.keeping import trained_by
from fedllm_bench.training.faults import DROPPED_OUT

if TYPE_CHECKING:
    from fedllm_bench.report import figures


def write_report(bench: Bench, sides: RawSides, clock: Clock) -> dict[str, Any]:
    """Summaries with intervals, figures, and results.json as the last file: a run that has it is finished."""
    folder, config = bench.cell.folder, bench.config
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    kept = kept_round(rounds)
    sets = {
        name: ScoreSet(
            before=sides.before[name], after=sides.after[name], local=sides.local[name] if sides.local else None
        )
        for name in bench.metrics
    }
    lines = files.read_jsonl_so_far(folder / FILE)
    infos = {name: METRICS[name].info for name in bench.metrics}
    cost = _cost(rounds, lines, clock.seconds) | energy_of_run(bench, clock)
    payload = results_payload(
        run=_about_run(bench),
        data=_about_data(bench, kept),
        cost=cost | flops_of_run(bench, sides, rounds, lines),
        metrics=metrics_of(sets, infos),
        clients={name: client_rows(scores) for name, scores in sets.items()},
        over_rounds=_over_rounds(bench, sides, lines, kept),
        personalisation=_personalisation(bench, sides, kept),
        privacy=privacy_block(bench.method, config, len(bench.clients), rounds),
        communication=communication_block(bench.method, config, len(bench.clients), rounds),
        aggregation=aggregation_block(config, rounds),
        attack=attack_block(config, bench.clients.ids, rounds),
        clock=clock_block(config, rounds),
        early_stop=early_stop_block(config, rounds, num_checked_rows(bench), len(bench.checked)),
        offsite=offsite_block(bench, rounds, sides.emulator),
    )
    _draw(bench, payload, rounds)
    write_results(folder / RESULTS, payload)
    return payload


def _about_run(bench: Bench) -> dict[str, Any]:
    config, mixed = bench.config, num_mixed(bench.method)
    commit = RunFolder(bench.cell.folder).environment["commit"]
    return {
        "dataset": bench.cell.split.name + _controls(config) + attack_mark(config, len(bench.clients)),
        "method": config.method.name,
        "personal": bench.method.personal,
        "profile": config.profile,
        "track": config.track,
        "seed": config.seed,
        "model": _model_name(config),
        "base": _base_name(config),
        "base_hash": bench.cell.base_hash,
        "config_hash": bench.cell.hash,
        "commit": commit,
        **({"mixture": mixed} if mixed > 1 else {}),
    }


def _controls(config: RunConfig) -> str:
    """What was done to the training rows, after the name of the split; "" where nothing was."""
    data = config.data
    done = {
        "users shuffled": data.shuffle_users,
        "answers swapped": data.swap_answers,
        "votes split": data.split_pairs,
        f"{counted(data.canaries, 'canary')} planted": data.canaries,
    }
    return "".join(f", {words}" for words, is_done in done.items() if is_done)


def _model_name(config: RunConfig) -> str:
    """ "mini (4bit)", "mini + DIR", "mini (all weights)", "mini (prefix tuning (20 tokens))"."""
    model = config.model
    name = model.name + (f" + {model.adapter}" if model.adapter else "")
    name += f" ({model.quantization})" if model.quantization != "none" else ""
    name += "" if config.adapter.is_lora else f" ({config.adapter.in_words})"
    if config.offsite.is_on:
        return f"{name} ({offsite_label(config)})"
    return name + (" (all weights)" if model.trainable == "full" else "")


def _base_name(config: RunConfig) -> str:
    if not config.offsite.is_on:
        return base_label(config.model, config.adapter)
    return f"{base_label(replace(config.model, trainable='adapter'), config.adapter)}, {offsite_label(config)}"


def _about_data(bench: Bench, num_rounds: int) -> dict[str, Any]:
    manifest = bench.cell.split.manifest
    ids = bench.clients.ids
    # a pooled method trains on everyone's rows, whomever the schedule chooses
    visited = trained_by(bench.timeline, bench.config, bench.clients, num_rounds)
    never = [] if bench.method.pooled else sorted(set(range(len(ids))) - visited)
    return {
        "num_clients": len(manifest.clients),
        "num_unseen_clients": len(manifest.unseen),
        "num_train_rows": sum(client.train for client in manifest.clients),
        "num_heldout_rows": sum(client.heldout for client in manifest.clients),
        "sample": sample_block(bench.items, bench.cell.split),
        "local_clients": [ids[client] for client in bench.local_sample],
        "never_visited": [ids[client] for client in never],
        "sequence_length": bench.config.local.sequence_length,
        "cut": cuts_block({name: whole(part) for name, part in bench.clients.tokens.items()}),
    }


def _over_rounds(
    bench: Bench, sides: RawSides, lines: Sequence[Mapping[str, Any]], num_rounds: int
) -> dict[str, Any] | None:
    every = bench.config.evaluation.every
    if not every or bench.method.personal:
        return None
    return over_rounds(
        lines,
        sides.before[bench.loss],
        sides.after[bench.loss],
        info=METRICS[bench.loss].info,
        num_rounds=num_rounds,
        every=every,
    )


def _personalisation(bench: Bench, sides: RawSides, num_rounds: int) -> dict[str, Any] | None:
    if sides.personal is None:
        return None
    local, ids = local_of(bench.config, num_rounds), bench.clients.ids
    after = sides.after[bench.loss]
    entry = metric_entry(
        METRICS[bench.loss].info,
        ScoreSet(before=scores_of(after, sides.personal), after=sides.personal),
    )
    return {
        "metric": bench.loss,
        "steps": bench.config.evaluation.personal_steps,
        "optimizer": local.optimizer,
        "lr": local.lr,
        "heldout": entry,
        "clients": gains(after, sides.personal, {k: len(bench.clients.train_rows[k]) for k in ids}),
    }


def _cost(
    rounds: list[dict[str, Any]], lines: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]
) -> dict[str, Any]:
    trained = sum(record["seconds"] for record in rounds)  # in all sessions; a killed one left no other time
    looked = sum(line["seconds"] for line in lines)  # within the stage `train`, and not training
    checks = sum(record["check"]["seconds"] for record in checked(rounds))  # nor are these
    train = round(max(seconds.get("train", 0.0) - looked - checks, trained), 4)
    shown = {**seconds, "train": train} | ({"score rounds": round(looked, 4)} if lines else {})
    shown |= {"check": round(checks, 4)} if checked(rounds) else {}
    return {
        "bytes_up": sum(record["bytes_up"] for record in rounds),
        "bytes_down": sum(record["bytes_down"] for record in rounds),
        "num_answers": sum(len(record["client_ids"]) for record in rounds) - num_dropouts(rounds),
        "num_dropouts": num_dropouts(rounds),
        "failures": failures_of(rounds),
        "seconds": shown,
        "peak_memory_bytes": peak_bytes(),
        "peak_gpu_bytes": peak_gpu_bytes(),
    }


def peak_gpu_bytes() -> int | None:
    """Peaks of all GPUs together; those that the run does not use count nothing."""
    if not torch.cuda.is_available():
        return None
    return sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))


def failures_of(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers that were left out of their round's mean, in the order of rounds and clients."""
    return [
        {"round": record["round"], "client": client, "reason": reason}
        for record in rounds
        for client, reason in zip(record["client_ids"], record["failures"], strict=True)
        if reason not in (None, DROPPED_OUT)
    ]


def num_dropouts(rounds: Sequence[Mapping[str, Any]]) -> int:
    """How often a chosen client dropped out, over all rounds."""
    return sum(record["failures"].count(DROPPED_OUT) for record in rounds)


def _draw(bench: Bench, payload: dict[str, Any], rounds: list[dict[str, Any]]) -> list[Path]:
    from fedllm_bench.report import (  # load matplotlib
        check_figure,
        client_figures,
        clock_figures,
        figures,
        view_figures,
    )

    run, metrics, out = payload["run"], payload["metrics"], bench.cell.folder / "figures"
    label = in_figure(run)
    paths = []
    loss = metrics.get(bench.loss)
    local = bench.config.local
    if loss and (local.loss == "sft" or (local.loss, local.dpo_loss) == ("dpo", "sigmoid")):  # one scale
        points, on = _heldout_points(loss, kept_round(rounds))
        paths += figures.loss_over_rounds(rounds, points, out, label=label, heldout_on=on, unit=loss["unit"])
    paths += check_figure.checks(payload, out, label=label)
    paths += view_figures.heldout_bands(payload, out, label=label)
    paths += clock_figures.over_the_clock({run["method"]: payload}, out, label=label)
    paths += view_figures.personal_gain(payload, out, label=label)
    for metric in payload["clients"]:
        paths += client_figures.clients(payload, metric, out, label=label)
    for metric in ("mini_exact", "mini_choice"):
        if metric in metrics:
            paths += figures.tasks(payload, out, metric=metric, label=label)
    return paths


def _heldout_points(entry: Mapping[str, Any], num_rounds: int) -> tuple[list[figures.Heldout], str]:
    """Held-out loss before the first and after the last or best round, and on whom."""
    sides = [(0, entry["before"]), (num_rounds, entry["after"])]
    points = [(at, side["mean"], side["ci_low"], side["ci_high"]) for at, side in sides if side["mean"] is not None]
    before, after = (f"{counted(side['n'], 'client')}, {counted(side['n_scored'], 'row')}" for _, side in sides)
    return points, after if before == after else f"base on {before}, after on {after}"
