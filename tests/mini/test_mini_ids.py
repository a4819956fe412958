"""Every token id of the mini data is what it always was: their results are shipped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.pairs import answered
from fedllm_bench.data.rows import PreferenceRow, Turn
from fedllm_bench.data.tokens import TokenRow, encode_turns
from fedllm_bench.mini.dataset import BUILDERS, mini_split
from fedllm_bench.mini.probes import load_probes
from fedllm_bench.mini.users import Population

MINI = template_text("mini")
SMALL = Population(seed=3, num_users=6, num_below_cut=4, num_names=8)
# Of all rows and probes of the five mini data sets under template mini, as they were when control tokens were found in
# any text: with all answers counted, and with the last one alone.
SMALL_IDS = {
    "aya": ("56d6f5f0f61731eb", "56d6f5f0f61731eb"),
    "chatbot_it": ("c007c802daa2eca9", "f2e88a3107e2cc95"),
    "chatbot_pa": ("204395b52d7fafd2", "e7815d0c8b1a8e9c"),
    "wildchat": ("f788b6810548f54a", "f788b6810548f54a"),
    "wildchat_multi": ("4db8ead1cd035e1d", "0e43af5ff524ae3e"),
}
WHOLE_IDS = {
    "aya": ("b6dab5a695190b89", "b6dab5a695190b89"),
    "chatbot_it": ("1da982247f1ef6a1", "a55fe668a8f19a70"),
    "chatbot_pa": ("c3d894453c89c4f2", "839d51094eea0f23"),
    "wildchat": ("d3e054a3ec5e0b07", "d3e054a3ec5e0b07"),
    "wildchat_multi": ("183b9a7c24b25110", "001f4eb15257b80f"),
}
WHOLE_HASHES = {
    "aya": "5b271abdb7c18124",
    "chatbot_it": "6d411fea32352b03",
    "chatbot_pa": "15d4621bb777cd08",
    "wildchat": "1c4526334372c424",
    "wildchat_multi": "91bdf58d2bf468fa",
}


def answer_to(prompt: str, text: str) -> tuple[Turn, ...]:
    return ({"role": "user", "content": prompt}, {"role": "assistant", "content": text})


def talks_of(split: Split) -> Iterator[tuple[Turn, ...]]:
    """All that is tokenised of a mini split: rows of all parts, and the candidates of its probes."""
    for part in ("train", "heldout", "unseen"):
        for row in split.task_rows(part):
            texts = (row.chosen, row.rejected) if isinstance(row, PreferenceRow) else ()
            yield from [answered(row, text) for text in texts] if texts else [row.messages]
    for (_, prompt, completion), probe in load_probes(split).items():
        yield from (answer_to(prompt, choice) for choice in (completion, *probe.choices))


def digest(rows: Sequence[TokenRow]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(row.ids.astype("<i4").tobytes() + row.counted.tobytes() + b"|")
    return found.hexdigest()[:16]


def digests(split: Split, tokenizer: Any) -> tuple[str, str]:
    talks = list(talks_of(split))
    assert len(talks) > 600
    rows = encode_turns(talks, tokenizer, MINI)
    assert not any(row.holds_control for row in rows)
    return digest(rows), digest(encode_turns(talks, tokenizer, MINI, last_only=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_row_and_probe_of_a_small_mini_split_has_the_ids_that_it_always_had(name, tiny_model, tmp_path):
    assert digests(BUILDERS[name](SMALL, tmp_path / "split"), tiny_model.tokenizer) == SMALL_IDS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_every_row_and_probe_of_the_mini_data_has_the_ids_that_it_always_had(name, tiny_model, tmp_path):
    split = mini_split(name, 0, tmp_path)
    assert split.hash[:16] == WHOLE_HASHES[name]
    assert digests(split, tiny_model.tokenizer) == WHOLE_IDS[name]
