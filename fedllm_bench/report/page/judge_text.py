"""What is known of a judge, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import MISSING, counted, duration, wrapped
from fedllm_bench.report.tables import aligned

Payload = Mapping[str, Any]
SETUPS = {"S1": "with", "S2": "without"}
BIASES = {
    "consistency": ("same verdict when swapped", "1 is best"),
    "first": ("first answer in both orders", "0 is unbiased"),
    "second": ("second answer in both orders", "0 is unbiased"),
    "first_share": ("verdicts for the first answer", "0.5 is unbiased"),
    "longer_at_tie": ("longer answer where experts tie", "0.5 is unbiased"),
    "length_gap": ("errors for length", "0 is unbiased"),
    "self_consistency": ("same verdict when repeated", "1 is best"),
}
AGREEMENT_NOTES = (
    "Share of pairs of votes that name the same winner, with its 95% interval over questions. Without ties: pairs in "
    "which one vote is a tie are left out. By chance: 33% with ties, 50% without. Published: Zheng et al., 2023 "
    "(arXiv:2306.05685), Table 5.",
)
VOTES_NOTES = (
    "Share of pairs of votes that name the same winner, with its 95% interval over questions. Without ties: pairs in "
    "which one vote is a tie are left out. By chance: 33% with ties, 50% without, if each verdict were as likely.",
)
REVIEWS_NOTES = (
    "Sums of scores from 1 to 10 over the questions that have one. The interval of a difference is paired by question. "
    "Ahead: the first model has the higher score (1; equal scores, or orders that disagree, 0.5), as a mean over "
    "questions. A judge that sees each pair in one order only may prefer a place (docs/comparing.md).",
)
WIN_RATES = {"ahead in both orders": "both orders", "shown first": "shown first", "shown second": "shown second"}
BIAS_NOTES = (
    "A judge sees each pair in both orders; one winner in both wins, all else is a tie.",
    "errors for length: how much more often the judge decides against the experts' majority where they prefer the "
    "shorter answer than where they prefer the longer one. All definitions: docs/comparing.md.",
)


def judge_check_text(payload: Payload, width: int = 100) -> str:
    notes = VOTES_NOTES if "votes" in payload else AGREEMENT_NOTES
    lines = [*_agreement(payload["agreement"]), "", *_notes(notes, width)]
    if "votes" in payload:
        lines += ["", _votes(payload["votes"])]
    if "biases" in payload:
        lines += ["", *_biases(payload), "", *_notes(BIAS_NOTES, width), "", *_judge(payload, width)]
    return "\n".join(lines)


def reviews_text(payload: Payload, width: int = 100) -> str:
    """The sums of pairs of models."""
    rows = [["model", "total [95% CI]", "questions", "mean"]]
    for pair in payload["reviews"]:
        first, second = pair["models"]
        named = {**pair["totals"], f"{first} - {second}": pair["difference"]}
        rows += [[name, _sum(total), str(total["questions"]), _mean(total)] for name, total in named.items()]
    unscored = sum(sum(pair["unscored"].values()) for pair in payload["reviews"])
    number = sum(pair["reviews"] for pair in payload["reviews"])
    why = sorted({reason for pair in payload["reviews"] for reason in pair["unscored"]})
    left = f", {unscored} unscored ({'; '.join(why)})" if unscored else ""
    lines = [*aligned(rows), "", *_compared(payload["reviews"]), "", *_notes(REVIEWS_NOTES, width), ""]
    lines.append(f"Reviews   {number}{left}")
    return "\n".join(lines)


def _compared(reviews: Sequence[Payload]) -> list[str]:
    """The ratio of the sums, and who is ahead how often."""
    rows = [["first model / second", "ratio of sums, % [95% CI]", *WIN_RATES]]
    for pair in reviews:
        rates = [pair["win_rates"].get(name) for name in WIN_RATES.values()]
        shown = [MISSING if rate is None else _percent(rate) for rate in rates]
        rows.append([" / ".join(pair["models"]), _ratio(pair["ratio_percent"]), *shown])
    return aligned(rows)


def _ratio(found: Payload) -> str:
    if found["mean"] is None:
        return MISSING
    limits = "[no interval]" if found["ci_low"] is None else f"[{found['ci_low']:.1f}, {found['ci_high']:.1f}]"
    return f"{found['mean']:.1f} {limits}"


def _sum(total: Mapping[str, Any]) -> str:
    if total["total"] is None:
        return MISSING
    limits = "[no interval]" if total["ci_low"] is None else f"[{total['ci_low']:.1f}, {total['ci_high']:.1f}]"
    return f"{total['total']:.1f} {limits}"


def _mean(total: Mapping[str, Any]) -> str:
    return MISSING if total["mean"] is None else f"{total['mean']:.3f}"


def _votes(about: Mapping[str, Any]) -> str:
    text = f"Votes     {about['votes']} of {counted(len(about['judges']), 'judge')}"
    text += f", {about['without_verdict']} of them without a verdict" if about["without_verdict"] else ""
    orders = about["inconsistent"]
    return text + (f", {orders} ties since the two orders have different winners" if orders else "")


def _notes(notes: Sequence[str], width: int) -> list[str]:
    return [line for note in notes for line in wrapped(note, width)]


def _agreement(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["agreement", "turn", "ties", "share [95% CI]", "pairs", "published"]
    return aligned([header, *([row["who"], *_agreement_cells(row)] for row in rows)])


def _agreement_cells(row: Mapping[str, Any]) -> list[str]:
    share, published = row["share"], row["published"]
    unscored = f" of {share['n_scored'] + share['n_unscored']}" if share["n_unscored"] else ""
    known = MISSING if published is None else f"{published[0]:.0%} of {published[1]}"
    return [str(row["turn"]), SETUPS[row["setup"]], _percent(share), f"{share['n_scored']}{unscored}", known]


def _percent(share: Mapping[str, Any]) -> str:
    if share["mean"] is None:
        return MISSING
    limits = "[no interval]" if share["ci_low"] is None else f"[{share['ci_low']:.1%}, {share['ci_high']:.1%}]"
    return f"{share['mean']:.1%} {limits}"


def _biases(payload: Payload) -> list[str]:
    columns = {payload["judge"]: payload["biases"], "GPT-4 (stored votes)": payload["gpt4_biases"]}
    rows = [
        [title, *(_bias(found.get(name)) for found in columns.values()), best] for name, (title, best) in BIASES.items()
    ]
    return aligned([["bias [95% CI]", *columns, ""], *rows])


def _bias(summary: Mapping[str, Any] | None) -> str:
    if summary is None or summary["mean"] is None:
        return MISSING
    limits = "[no interval]" if summary["ci_low"] is None else f"[{summary['ci_low']:.2f}, {summary['ci_high']:.2f}]"
    return f"{summary['mean']:.2f} {limits}"


def _judge(payload: Payload, width: int) -> list[str]:
    cost, coverage = payload["cost"], payload["coverage"]
    price = "price unknown" if cost["price"] is None else f"{cost['price']:.{2 if cost['price'] >= 1 else 4}f} USD"
    tokens = f"{cost['prompt_tokens']} + {cost['completion_tokens']} tokens"
    lines = [
        f"Coverage  {coverage['with_verdict']} of {counted(coverage['decisions'], 'decision')} have a verdict in both "
        f"orders{_refused(payload)}",
        f"Cost      {counted(cost['replies'], 'reply').replace('replys', 'replies')} to "
        f"{counted(cost['requests'], 'request')}, {price}, {tokens}, {duration(cost['seconds'])} of waiting",
    ]
    if len(cost["fingerprints"]) > 1:
        lines.append(f"Warning   {len(cost['fingerprints'])} fingerprints: the model behind the name has changed")
    return [line for text in lines for line in wrapped(text, width)]


def _refused(payload: Payload) -> str:
    shares = [row["share"] for row in payload["agreement"] if row["coverage"] is not None]
    refused = any(share["mean"] is None and share["n_scored"] for share in shares)
    return "; where more than a tenth is missing no share is given" if refused else ""
