"""On a real pretrained base: losses are those of plain transformers, adapters those of a plain PEFT loop.

The same on a tiny random model, which is fast, so that `make test` sees what would break.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_base import NAME, PARAGRAPHS
from tiny import ALL_LINEAR, adapter_parameters, client_task, plain_loss, plain_peft, plain_steps, settings
from trl_steps import difference

from fedllm_bench.common.trees import tmap
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.data.rows import Turn
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.data.tokens import TokenPart, TokenRow, encode_turns
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.training.block import train_block
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

NATS_PER_TOKEN = 1e-4  # float32
ASKED = "Write a paragraph about a river."


@dataclass(frozen=True)
class Base:
    folder: Path
    model: LoraModel
    is_real: bool


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.slow)])
def base(request: pytest.FixtureRequest) -> Base:
    is_real = request.param == "real"
    folder = request.getfixturevalue("real_base" if is_real else "tiny_folder")
    lora = Lora(rank=4, alpha=8, dropout=0.0, targets=ALL_LINEAR)
    return Base(folder, load_model(Model(name=str(folder), dtype="float32"), lora), is_real)


@pytest.fixture(scope="module")
def plain(base: Base) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()


def chat(language: str) -> list[Turn]:
    return [{"role": "user", "content": ASKED}, {"role": "assistant", "content": PARAGRAPHS[language]}]


def rows_of(base: Base) -> list[TokenRow]:
    template = source_for("model", base.model.tokenizer, NAME)
    return encode_turns([chat(language) for language in PARAGRAPHS], base.model.tokenizer, template)


def loss_of(plain: Any, row: TokenRow) -> float:
    """Mean loss of the counted tokens, as transformers itself computes it: one row, no padding."""
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    labels = ids.masked_fill(~torch.from_numpy(row.counted)[None], -100)
    with torch.no_grad():
        return float(plain(input_ids=ids, labels=labels, use_cache=False).loss)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_losses_of_paragraphs_are_those_of_plain_transformers(base, plain, batch_tokens):
    """One by one, and padded side by side; in English, Spanish and Ukrainian."""
    rows = rows_of(base)
    with base.model.using(None):
        sums = summed_nll(base.model, rows, batch_tokens)
    ours = [total / row.num_counted for total, row in zip(sums, rows, strict=True)]
    assert len(ours) == 3
    assert ours == pytest.approx([loss_of(plain, row) for row in rows], abs=NATS_PER_TOKEN)
    if base.is_real:
        assert max(ours) < 6  # a random model has 10.8


def test_every_token_of_a_text_has_the_loss_of_plain_transformers(base, plain):
    """No template: the ids that the tokenizer gives a text, all of them counted."""
    rows = []
    for text in PARAGRAPHS.values():
        ids = np.array(base.model.tokenizer(text)["input_ids"], np.int32)
        rows.append(TokenRow(ids, np.ones(len(ids), bool)))
    with base.model.using(None):
        sums = summed_nll(base.model, rows, 4096)
    ours = [total / (row.num_counted - 1) for total, row in zip(sums, rows, strict=True)]  # nothing is before the first
    assert ours == pytest.approx([loss_of(plain, row) for row in rows], abs=NATS_PER_TOKEN)


@pytest.mark.slow
def test_a_conversation_has_the_ids_that_transformers_gives_it(real_base):
    """Of the maker's own template; what counts begins where transformers would have the model speak."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_base)
    source = source_for("model", tokenizer, NAME)
    for language in PARAGRAPHS:
        (row,) = encode_turns([chat(language)], tokenizer, source)
        whole = tokenizer.apply_chat_template(chat(language), return_dict=False)
        asked = tokenizer.apply_chat_template(chat(language)[:1], add_generation_prompt=True, return_dict=False)
        assert whole[: len(row.ids)] == row.ids.tolist()
        assert tokenizer.decode(whole[len(row.ids) :]).strip() == ""  # a line break behind the last mark
        assert int(row.counted.argmax()) == len(asked)
        assert row.counted[len(asked) :].all()
        assert row.ids[-1] == tokenizer.eos_token_id


def test_adapters_after_two_steps_are_those_of_a_plain_peft_loop(base):
    """float32, rows of unlike lengths, clipping and weight decay, from an adapter whose B is not zero."""
    local = settings(steps=2, lr=5e-4, weight_decay=0.1, micro_batch=2)
    stream = torch.Generator().manual_seed(3)
    start = tmap(lambda t: t + 0.01 * torch.randn(t.shape, generator=stream), initial_adapter(base.model.layers, 4, 0))
    task = client_task(0, short_part(base), range(3), local, steps=2)
    (ours,) = train_block(base.model, FedAvg(), {"params": start}, [task], local)
    peft_model = plain_peft(base.folder, start, torch.float32)
    parameters = adapter_parameters(peft_model)
    losses = plain_steps(parameters, task, local, lambda rows: plain_loss(peft_model, rows))
    assert ours.losses == pytest.approx(losses, rel=1e-4)
    theirs = {name: parameters[name].detach() - start[name] for name in start}
    assert difference(theirs, ours.upload["delta"]) <= 1e-3
    assert difference(theirs, tmap(lambda t: t * 0, start)) == 1.0  # it moved


def short_part(base: Base) -> TokenPart:
    """The three conversations, cut to at most 48, 44 and 40 tokens, of which the end counts."""
    rows = [replace(row, ids=row.ids[:most]) for row, most in zip(rows_of(base), (48, 44, 40), strict=True)]
    lengths = [len(row.ids) for row in rows]
    return TokenPart(
        ids=np.concatenate([row.ids for row in rows]),
        counted=np.concatenate([np.arange(n) >= n // 2 for n in lengths]),
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        rows=np.arange(len(rows)),
        num_cut=0,
        num_skipped=0,
    )
