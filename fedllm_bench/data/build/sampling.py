"""Which rows of a client stay, and which are held out: chosen by hashes, never by the order of the rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from fedllm_bench.common.files import sha256_json
from fedllm_bench.data.build.recipe import Recipe
from fedllm_bench.data.build.sample import Message, Sample
from fedllm_bench.data.words import normal_text


def row_id(sample: Sample) -> str:
    """16 hex digits of what makes a row itself; where it was read does not count."""
    single = len(sample.turns) == 1
    content = [
        sample.client,
        sample.turns[0][1] if single else [list(turn) for turn in sample.turns],
        sample.answers[0] if len(sample.answers) == 1 else list(sample.answers),
        sample.upstream_split,
        sample.language,
        sample.source,
    ]
    return sha256_json(content)[:16]


def is_upstream_heldout(sample: Sample) -> bool:
    return sample.upstream_split != "train"


def unique(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each (client, prompt, answers, label): an upstream training row if there is one."""
    best: dict[tuple[str, tuple[Message, ...], tuple[str, ...], str], Sample] = {}
    for sample in samples:
        key = (sample.client, sample.turns, sample.answers, sample.label)
        best[key] = min(best[key], sample, key=_preference) if key in best else sample
    return list(best.values())


def _preference(sample: Sample) -> tuple[bool, str]:
    return is_upstream_heldout(sample), row_id(sample)


def cap(samples: Sequence[Sample], most: int | None, seed: int) -> Sequence[Sample]:
    """At most `most` samples, the ones whose hashes with the seed are lowest."""
    if most is None or len(samples) <= most:
        return samples
    return sorted(samples, key=lambda sample: sha256_json([seed, "cap", row_id(sample)]))[:most]


def hold_out(
    samples: Sequence[Sample], recipe: Recipe, shared: Collection[str] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """The training and the held-out samples of one client, as the recipe's `heldout` says.

    Prompts that are `shared` are held out for all clients alike; without any, each client has its own. Rows of one
    prompt, in the form of the recipe's `leakage`, stay on one side.
    """
    if not samples:
        return [], []
    if recipe.heldout == "upstream":
        is_heldout = [is_upstream_heldout(sample) for sample in samples]
    else:
        asked = [compared(sample.prompt, recipe) for sample in samples]
        own = Counter(asked)
        prompts = shared or heldout_prompts(own, samples[0].client, recipe.heldout, recipe.seed)
        is_heldout = [prompt in prompts for prompt in asked]
    train = [sample for sample, out in zip(samples, is_heldout, strict=True) if not out]
    return train, [sample for sample, out in zip(samples, is_heldout, strict=True) if out]


def shared_prompts(samples: Iterable[Sample], recipe: Recipe) -> set[str]:
    """The prompts that a prompt-disjoint recipe holds out, in its form: about `heldout` of all rows."""
    if not recipe.prompt_disjoint or recipe.heldout == "upstream":
        return set()
    return heldout_prompts(
        Counter(compared(sample.prompt, recipe) for sample in samples), "", recipe.heldout, recipe.seed
    )


def heldout_prompts(rows_by_prompt: Counter[str], client: str, fraction: float, seed: int) -> set[str]:
    """Prompts, in order of their hashes, that together hold about `fraction` of the rows of one client.

    A prompt with more rows than are still due is passed over. Where that leaves none, the smallest prompt is
    held out, unless more than half of the rows would go: essays on eight subjects are to be tested as well.
    """
    if not fraction:
        return set()
    total = rows_by_prompt.total()
    due = min(max(1, round(fraction * total)), total - 1)
    ranked = sorted(rows_by_prompt, key=lambda prompt: sha256_json([seed, "heldout", client, prompt]))
    chosen: set[str] = set()
    for prompt in ranked:
        if rows_by_prompt[prompt] <= due:
            due -= rows_by_prompt[prompt]
            chosen.add(prompt)
    smallest = min(ranked, key=rows_by_prompt.__getitem__)
    return chosen or ({smallest} if 2 * rows_by_prompt[smallest] <= total else set())


def without_leaks(train: Iterable[Sample], heldout: Iterable[Sample], recipe: Recipe) -> list[Sample]:
    """The held-out samples that share neither (client, prompt) nor (prompt, response) with training.

    Texts are compared in the form that the recipe's `leakage` names. The chosen and the rejected answer are both
    responses. A conversation that goes on where another one ends has the other's last exchange inside: that is a leak
    too, in either direction.
    """
    ends: set[bytes] = set()
    inside: set[bytes] = set()
    for sample in train:
        own_ends, own_inside = _exchanges(sample, recipe)
        ends |= own_ends
        inside |= own_inside
    return [sample for sample in heldout if not _leaks(_exchanges(sample, recipe), ends, inside)]


def without_prompts(train: Iterable[Sample], others: Iterable[Sample], recipe: Recipe) -> list[Sample]:
    """Those of `others` whose prompt, in the form of the recipe, is that of no training sample."""
    trained_on = {compared(sample.prompt, recipe) for sample in train}
    return [sample for sample in others if compared(sample.prompt, recipe) not in trained_on]


def compared(text: str, recipe: Recipe) -> str:
    """A text as the leakage rule compares it."""
    return text if recipe.leakage == "exact" else normal_text(text)


def _leaks(own: tuple[set[bytes], set[bytes]], ends: set[bytes], inside: set[bytes]) -> bool:
    own_ends, own_inside = own
    return not (own_ends.isdisjoint(ends) and own_ends.isdisjoint(inside) and own_inside.isdisjoint(ends))


def _exchanges(sample: Sample, recipe: Recipe) -> tuple[set[bytes], set[bytes]]:
    """Keys of (client, prompt) and (prompt, response): at the end of a sample, and inside it.

    16 bytes each, as prompts that hold all turns so far would be quadratic in the length of a conversation.
    The first exchange does not count as inside: thousands of different conversations open with a greeting.
    """
    context = hashlib.blake2b(digest_size=16)
    inside: set[bytes] = set()
    answers = [compared(answer, recipe) for answer in sample.answers]
    for place, (role, written) in enumerate(sample.turns):
        content = compared(written, recipe)
        if role == "assistant" and place > 1:
            inside |= _keys(sample.client, context.digest(), (content,))
        context.update((("\n" if place else "") + content).encode())
    return _keys(sample.client, context.digest(), answers), inside


def _keys(client: str, prompt: bytes, responses: Iterable[str]) -> set[bytes]:
    keyed = [("asked", client), *(("answered", response) for response in responses)]
    return {hashlib.blake2b(prompt + f"{kind}:{text}".encode(), digest_size=16).digest() for kind, text in keyed}
