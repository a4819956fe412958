"""What a diversity report says, as one sentence and one number each; for the card and the top of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.text import counted, number, signed

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """`section`: what it is of; `number` as it is shown; `sentence` what it means."""

    section: str
    number: str
    sentence: str


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """One for each section that was computed, in the order of SENTENCES."""
    sections = report["sections"]
    there = [name for name in SENTENCES if name in sections and "skipped" not in sections[name]]
    return [Finding(name, *SENTENCES[name](sections[name], report)) for name in there]


def skipped(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(section, why and what to do)."""
    return [(name, found["skipped"]) for name, found in report["sections"].items() if "skipped" in found]


def _quantity(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    split = report["split"]
    return (
        f"{section['effective_clients']:.1f} effective clients",
        f"{split['rows']:,} rows of {counted(split['clients'], 'client')} are as uneven as if "
        f"{section['effective_clients']:.1f} equal ones had them (Gini {section['gini']:.2f}); the largest client has "
        f"{section['largest_share']:.1%} of the rows.",
    )


def _length(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    unit = "tokens" if section.get("prompt_tokens") else "characters"
    prompt, completion = section[f"prompt_{unit}"], section[f"completion_{unit}"]
    return (
        f"{completion['median']:,.0f} {unit}",
        f"The median completion; the median prompt has {prompt['median']:,.0f} {unit}, "
        f"and the longest completion {completion['largest']:,.0f}.",
    )


def _language(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    alone, clients = section["num_monolingual_clients"], report["split"]["clients"]
    over, within = f"{section['entropy']:.2f}", f"{section['mean_client_entropy']:.2f}"
    return (
        counted(len(section["rows"]), "language"),
        f"{alone} of {counted(clients, 'client')} use one only; languages have an entropy of {over} bits over all rows "
        f"and of {within} bits in a client on average.",
    )


def _instruction(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{section['mutual_information']:.2f} bits",
        f"That much does the client say about the topic of a row, of the {section['topic_entropy']:.2f} bits of "
        f"{counted(len(section['topics']), 'topic')}.",
    )


def _embedding(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    index, plain = section["index"], section["index_unstratified"]
    if index["value"] is None:
        return "no index", "No stratum has rows of two clients, so users cannot be compared with random ones."
    told = "differ" if index["rejected_at_0.05"] else "cannot be told"  # also where it was not tested
    by = " and ".join(index["stratified_by"]) or "split"
    without = f"; without strata it is {number(plain['value'])}{p_text(plain)}" if plain else ""
    return (
        f"{index['value']:.3f} ± {index['se'] or 0:.3f}",
        f"The index of heterogeneity: users {told} from random users of the same {by}{p_text(index)}{without}.",
    )


def effect(value: float) -> str:
    """A difference with its sign; in one digit where three decimals would show none."""
    return f"{value:+.1g}" if 0 < abs(value) < 0.001 else signed(value)


def p_text(index: Mapping[str, Any]) -> str:
    """ ", p = 0.002 of 499 permutations"; where none were made, that it was not tested."""
    if index["p_value"] is None:
        return ", not tested"
    return f", p = {index['p_value']:.3g} of {index['permutations']} permutations"


def _quality(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    copies = (
        f"{section['exact_duplicates']:.1%} of rows equal another, {section['near_duplicates']:.1%} nearly, and "
        f"{section['shared_across_clients']:.1%} stand at two clients or more."
    )
    ifd = section.get("ifd")
    if not ifd or "mean" not in ifd:
        return f"{section['near_duplicates']:.1%} near copies", copies
    harder = section.get("share_above_one")
    above = "" if harder is None else f"; {harder:.1%} of rows are above 1, where the prompt does not help"
    told = f"The mean by {section['model']} (standard deviation {ifd['sd']:.2f}{above}). {copies}"
    return f"IFD {ifd['mean']:.2f}", told


def _preference(section: Section, report: Mapping[str, Any]) -> tuple[str, str]:
    features = {name: found for name, found in section["features"].items() if found["low"] is not None}
    sure = {name: found for name, found in features.items() if found["low"] > 0 or found["high"] < 0}
    agreed = section.get("agreement") or {"skipped": ""}
    agreement = (
        ""
        if "skipped" in agreed
        else f" Users agree on {agreed['agree']:.0%} of {agreed['pairs']:,} pairs of answers that they share "
        f"({agreed['expected_by_chance']:.0%} by chance)."
    )
    more = ", ".join(
        f"{name.replace('_', ' ')} {effect(found['mean'])} {found['unit']}" for name, found in sure.items()
    )
    return (
        f"{len(sure)} of {counted(len(features), 'feature')}",
        f"What chosen answers have more of than rejected ones: {more or 'nothing that is measured'}.{agreement}",
    )


SENTENCES: dict[str, Callable[[Section, Mapping[str, Any]], tuple[str, str]]] = {
    "quantity": _quantity,
    "length": _length,
    "language": _language,
    "instruction": _instruction,
    "embedding": _embedding,
    "quality": _quality,
    "preference": _preference,
}
