"""The lines under the table on the terminal: units, intervals, who was trained and who was not, costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm_bench.common.text import counted, duration, part_of, size, wrapped
from fedllm_bench.report.client_table import about_views
from fedllm_bench.report.cost_lines import about_energy, about_flops, about_stop
from fedllm_bench.report.interval_words import how, why_none
from fedllm_bench.report.names import listed, short_name
from fedllm_bench.results.clock import about_clock
from fedllm_bench.results.cuts import about_cuts
from fedllm_bench.results.sample_words import about_sample

Payload = Mapping[str, Any]
Entry = Mapping[str, Any]
RULES = {
    "frozen_a": "A frozen, B alone trained and sent",
    "share_a": "A sent and averaged, B stays with its client",
    "alternate": "A and B trained and sent in turn",
    "flex": "adapters cut from the mean of B A (FlexLoRA)",
    "stack": "adapters stacked into the base (FLoRA)",
    "exact": "the base takes what means of A and B miss (FedEx-LoRA)",
    "restart": "each round begins anew from the base's main directions (FRLoRA)",
    "fair": "B mended for the mean of A (LoRA-FAIR)",
}
MIXED = (
    "losses and choices are of the mixture of probabilities, row by row; written answers are of the one adapter with "
    "the largest share"
)
SIDES = {"before": "base", "after": "after", "local": "local"}


def legend(payload: Payload, width: int) -> list[str]:
    """Lines of at most `width` columns, but for words that are wider."""
    metrics, cost = payload["metrics"], payload["cost"]
    items = [
        *_attack(payload),
        _units(metrics),
        "↓ lower is better, ↑ higher is better",
        _how(metrics),
        *_without(metrics),
        *about_sample(payload["data"].get("sample")),
        *_better(payload),
        *about_views(payload),
        *_about_adapters(payload),
        *_never_visited(payload),
        *about_cuts(payload),
        *_left_out(cost),
        *_dropped_out(cost),
        *_unscored(metrics),
        *_uploads(payload),
        *about_clock(payload),
        *about_stop(payload),
        *_offsite(payload),
        *_cost(cost),
    ]
    return [line for item in items for line in wrapped(item, width)]


def after_name(payload: Payload) -> str:
    """The name of the column of trained adapters; "after (local)" where each client has its own."""
    run = payload["run"]
    return f"after ({run['method']})" if run["personal"] else "after"


def _units(metrics: Mapping[str, Entry]) -> str:
    """The metrics of each unit; views are covered by the name of their metric."""
    named: dict[str, list[str]] = {}
    for name, entry in metrics.items():
        names = named.setdefault(entry["unit"], [])
        if not any(name.startswith(f"{other}_") for other in names):
            names.append(name)
    return "unit: " + "; ".join(f"{unit} ({', '.join(names)})" for unit, names in named.items())


def _how(metrics: Mapping[str, Entry]) -> str:
    summaries = [s for entry in metrics.values() for s in (entry["difference"], entry["difference_to_local"]) if s]
    units = sorted({summary["unit_of_resampling"] for summary in summaries}) or ["client"]
    return f"[95% CI]: paired per {', '.join(units)}; {how(summaries)}"


def _without(metrics: Mapping[str, Entry]) -> list[str]:
    """Why some differences have no interval."""
    lines = []
    for key, words in {"difference": "after - base", "difference_to_local": "after - local"}.items():
        found = {name: entry[key] for name, entry in metrics.items() if entry[key]}
        lines += [f"{words}: {line}" for line in why_none(found)]
    return lines


def _better(payload: Payload) -> list[str]:
    """ "clients better than base: 36 of 38 (heldout)"; the rest are worse, but for those called equal."""
    counts = []
    for name in payload["clients"]:
        found = payload["metrics"][name]["distribution"]
        n, better = found["difference"]["n"], found["num_better"]
        equal = n - better - found["num_worse"]
        ties = f" with {equal} equal" if equal else ""
        counts += [f"{better} of {n}{ties} ({name})"] if n else []
    return [f"clients better than base: {', '.join(counts)}"] if counts else []


def _about_adapters(payload: Payload) -> list[str]:
    """Which clients have adapters of their own: in the baseline, or under a personal method in the run itself."""
    metrics, lines = payload["metrics"], []
    if payload["run"]["personal"]:
        num_mixed = payload["run"].get("mixture", 1)
        has = "with an adapter of its own" if num_mixed == 1 else f"with shares of its own in {num_mixed} adapters"
        lines.append(f"{after_name(payload)}: {_own_adapters(payload, 'after - base', has)}")
        if num_mixed > 1:
            lines.append(MIXED)
        if any(name.endswith("_unseen") and entry["after"]["n"] for name, entry in metrics.items()):
            global_one = "equal shares" if num_mixed > 1 else "the global one"
            own = "shares" if num_mixed > 1 else "adapter"
            lines.append(f"unseen users have no {own} of their own: they are scored with {global_one}")
    if any(entry["local"] for entry in metrics.values()):
        lines.append(f"local: {_own_adapters(payload, 'after - local', 'trained alone')}")
    return lines


def _own_adapters(payload: Payload, compared: str, how: str) -> str:
    data = payload["data"]
    names, total = data["local_clients"], data["num_clients"]
    if len(names) == total:
        return f"all {counted(total, 'client')}, each {how}" if total > 1 else f"the one client, {how}"
    return (
        f"{len(names)} of {counted(total, 'client')}, each {how}{listed(names)}; {compared} is over those clients "
        "only, so it is not the difference of the two columns"
    )


def _never_visited(payload: Payload) -> list[str]:
    data = payload["data"]
    never = data["never_visited"]
    if not never:
        return []
    alone = bool(set(never) & set(data["local_clients"]))
    if payload["run"]["personal"]:
        shared = "equal shares" if payload["run"].get("mixture", 1) > 1 else "the global adapter"
        has = f"answer with {shared}" if payload["cost"]["bytes_up"] else "stay at the base model"
        role = f"{has} and count in the mean" if alone else "have no adapter and are not scored after"
    else:
        role = "are scored with the global adapter" + ("; alone (local) they stay at the base model" if alone else "")
    who = f"{len(never)} of {counted(data['num_clients'], 'client')}{listed(never)}"
    missed = ", or dropped out each time" if payload["cost"]["num_dropouts"] else ""
    return [f"never chosen by the schedule{missed}: {who}; they {role}"]


def _left_out(cost: Mapping[str, Any]) -> list[str]:
    failures = cost["failures"]
    if not failures:
        return []
    first = failures[0]
    verb, which = ("was", "") if len(failures) == 1 else ("were", "first: ")
    return [
        f"left out: {counted(len(failures), 'answer')} of {cost['num_answers']} {verb} not finite "
        f"({which}round {first['round']}, client {short_name(first['client'])}: {first['reason']})"
    ]


def _dropped_out(cost: Mapping[str, Any]) -> list[str]:
    away, chosen = cost["num_dropouts"], cost["num_dropouts"] + cost["num_answers"]
    return [f"dropped out by plan (faults.dropout): {away} of {chosen} times that a client was chosen"] if away else []


def _unscored(metrics: Mapping[str, Entry]) -> list[str]:
    """One line for each metric with starred numbers."""
    lines = []
    for name, entry in metrics.items():
        starred = {label: entry[side] for side, label in SIDES.items() if entry[side] and entry[side]["n_unscored"]}
        counts = [f"{label} {s['n_unscored']} of {s['n_unscored'] + s['n_scored']}" for label, s in starred.items()]
        lines += [f"* items not scored, in no mean: {name}: {', '.join(counts)}"] if counts else []
    return lines


def _uploads(payload: Payload) -> list[str]:
    """The guarantee of privacy, and what differs from float32 adapters averaged as they are."""
    privacy, sent = payload["privacy"], payload["communication"] or {}
    lines = [f"privacy: {privacy['statement']}"] if privacy else []
    if privacy and privacy["clipped"] is not None:
        lines.append(f"clipped: {privacy['clipped']:.0%} of uploads, at norm {privacy['clip']:g}")
    budget = sent.get("budget") or {}
    lines += [budget["ended"]] if budget.get("ended") else []
    lines += _rule(payload)
    lines += ["; ".join(changed)] if (changed := _how_sent(sent)) else []
    lines += _ranks(sent.get("ranks"))
    if sent.get("aggregation_error") is not None:
        lines.append(
            f"aggregation error of averaging A and B apart: {sent['aggregation_error']:.2%} of the mean of B A"
        )
    return lines


def _ranks(ranks: Mapping[str, Mapping[str, int]] | None) -> list[str]:
    """ "LoRA ranks (clients of each): 19 of 4, 19 of 8", and what was left of them where a method prunes."""
    if ranks is None:
        return []
    dealt, ended = (", ".join(f"{n} of {rank}" for rank, n in ranks[key].items()) for key in ("dealt", "ended"))
    pruned = "" if ended == dealt else f"; after self-pruning {ended}"
    return [f"LoRA ranks (clients of each): {dealt}{pruned}"]


def _how_sent(sent: Mapping[str, Any]) -> list[str]:
    """What travelled other than in float32; files of older versions lack some of the keys."""
    found = []
    row = ", a scale for each row" if sent.get("scales") == "row" else ""
    for way in ("upload", "download"):
        kind = sent.get(f"{way}_dtype", "float32")
        found += [f"{way}s in {kind}{row if kind.startswith('int') else ''}"] if kind != "float32" else []
    found += [f"the largest {100 * share:.3g}% of each upload" for share in [sent.get("top_k", 1.0)] if share != 1.0]
    found += ["with error feedback"] if sent.get("error_feedback") else []
    found += ["secure sums: the server saw no single upload"] if sent.get("secure_sum") else []
    found += [RULES[rule]] if (rule := sent.get("lora_aggregation")) in RULES else []
    return found


def _attack(payload: Payload) -> list[str]:
    """First of all lines: a run with attackers is no result of its data set."""
    attack = payload.get("attack")
    if not attack:
        return []
    rows = f", {attack['rows']:.0%} of their rows" if attack["kind"] in ("trigger", "harmful") else ""
    clients = listed(attack["clients"])
    return [
        f"ATTACKED: {part_of(len(attack['clients']), payload['data']['num_clients'], 'client')}{clients} "
        f"attack (attack.kind={attack['kind']}, scale {attack['scale']:g}{rows}); theirs were {attack['num_answers']} "
        f"of {attack['of_answers']} answers"
    ]


def _rule(payload: Payload) -> list[str]:
    """The rule of aggregation with its constants."""
    rule = payload.get("aggregation")
    if not rule:
        return []
    given = [f"{key} {rule[key]:g}" for key in ("trim", "byzantine", "selected", "bound") if rule[key] is not None]
    few = rule["num_fallbacks"]
    fallback = f"; the median in {counted(few, 'round')} with too few answers" if few else ""
    return [f"uploads combined by {rule['rule']}{' (' + ', '.join(given) + ')' if given else ''}{fallback}"]


def _offsite(payload: Payload) -> list[str]:
    """Who had which layers, and what the alignment came to."""
    found = payload.get("offsite")
    if not found:
        return []
    ends, total, kept = found["left"] + found["right"], found["num_layers"], len(found["kept"])
    lines = [
        f"offsite tuning ({found['variant']}): clients train {ends} of {total} layers on an emulator of {kept - ends} "
        f"of the other {total - ends} ({size(found['emulator_bytes'])}); base and after are of the whole model"
    ]
    if told := found["alignments"]:
        public, times = found["public"], counted(len(told), "time")
        lines.append(
            f"emulator aligned {times} on {counted(public['num_rows'], 'row')} of {public['split']}: its loss there "
            f"from {told[0]['before']:.3g} to {told[-1]['after']:.3g}"
        )
    return lines


def _cost(cost: Mapping[str, Any]) -> list[str]:
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in cost["seconds"].items())
    gpu = cost["peak_gpu_bytes"]
    on_gpu = f", {size(gpu)} on the GPU" if gpu is not None else ""
    sent = f"{size(cost['bytes_up'])} up, {size(cost['bytes_down'])} down"
    return [
        f"communication: {sent if cost['bytes_up'] or cost['bytes_down'] else 'none'}",
        f"wall time: {stages} (total {duration(sum(cost['seconds'].values()))})",
        f"peak memory: {size(cost['peak_memory_bytes'])}{on_gpu}",
        *about_flops(cost),
        *about_energy(cost),
    ]
