"""Held-out items made by hand, for the tests of metrics."""

from __future__ import annotations

from fedllm_bench.data.chat import template_text
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.metrics.items import HeldoutItem
from fedllm_bench.metrics.running import EvalSettings

SETTINGS = EvalSettings(template=template_text("mini"), batch_tokens=512, max_new_tokens=6)


def item_of(prompt: str, *choices: str, task: str = "facts", tokens: TokenRow | None = None) -> HeldoutItem:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": choices[0]})
    row = SftRow(client_id="c", split="heldout", row_id=prompt, language="eng", source="", messages=turns)
    return HeldoutItem(row, tokens, "heldout", task, "self", choices if len(choices) > 1 else ())
