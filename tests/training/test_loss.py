"""The loss of clients who share a batch, against the loss that the model of transformers computes itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny import CPU, VOCABULARY, random_part
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training import loss
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.loss import client_losses, counted_nll
from fedllm_bench.training.model.lora import attach, detach, initial_adapter

ROWS = list(random_part(seed=8, num_rows=6))


def count(rows: list[TokenRow]) -> int:
    return sum(row.num_counted for row in rows)


def hf_loss(model, rows: list[TokenRow]) -> float:
    batch = collate(rows, CPU)
    with torch.no_grad():
        return model.base(input_ids=batch.ids, labels=batch.targets).loss.item()


def test_the_loss_of_one_client_is_that_of_transformers(tiny_model):
    ours = client_losses(tiny_model, collate(ROWS, CPU), torch.tensor([0] * len(ROWS)), torch.tensor([count(ROWS)]))
    assert ours.shape == (1,)
    assert ours.item() == pytest.approx(hf_loss(tiny_model, ROWS), rel=1e-5)
    assert ours.item() > math.log(VOCABULARY) / 2  # a random model: neither 0 nor an average over all tokens


def test_each_client_has_the_loss_of_its_own_rows(tiny_model):
    own = [ROWS[:2], ROWS[2:4], ROWS[4:]]
    owners = torch.tensor([k for k, rows in enumerate(own) for _ in rows])
    losses = client_losses(tiny_model, collate(ROWS, CPU), owners, torch.tensor([count(rows) for rows in own]))
    assert losses.tolist() == pytest.approx([hf_loss(tiny_model, rows) for rows in own], rel=1e-5)
    assert len(set(losses.tolist())) == 3


def test_losses_of_micro_batches_add_up_to_the_mean_over_the_step(double_model):
    counted = torch.tensor([count(ROWS)])
    whole, *parts = (
        client_losses(double_model, collate(rows, CPU), torch.tensor([0] * len(rows)), counted)
        for rows in (ROWS, ROWS[:1], ROWS[1:])
    )
    assert whole.dtype == torch.float64
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


def test_only_counted_tokens_count(tiny_model):
    """The last token of a row is predicted from those before it, whatever it is itself."""
    ids = np.arange(10, 18, dtype=np.int32)
    row = TokenRow(ids, np.array([False] * 6 + [True, False]))
    other = TokenRow(np.where(np.arange(8) == 7, 99, ids), row.counted)
    nll, rows = counted_nll(tiny_model, collate([row], CPU))
    assert nll.shape == (1,)
    assert rows.tolist() == [0]
    assert torch.equal(nll, counted_nll(tiny_model, collate([other], CPU))[0])
    with torch.no_grad():
        logits = tiny_model.base(input_ids=torch.tensor([ids[:6].tolist()])).logits[0, -1]
    assert nll.item() == pytest.approx(-logits.log_softmax(-1)[ids[6]].item(), rel=1e-5)


def test_a_client_without_counted_tokens_has_loss_zero_and_no_gradient(tiny_model):
    silent = TokenRow(ROWS[1].ids, np.zeros(len(ROWS[1].ids), np.bool_))
    batch = collate([ROWS[0], silent], CPU)
    losses = client_losses(tiny_model, batch, torch.tensor([0, 1]), torch.tensor([ROWS[0].num_counted, 0]))
    assert losses[0].item() == pytest.approx(hf_loss(tiny_model, [ROWS[0]]), rel=1e-5)
    assert losses[1].item() == 0


def test_a_batch_without_any_counted_token_has_loss_zero(tiny_model):
    batch = Batch(torch.arange(4, 10)[None], torch.full((1, 6), -100))
    assert client_losses(tiny_model, batch, torch.tensor([0]), torch.tensor([0])).tolist() == [0.0]


def pulled_back(model, batch: Batch, chunk: int | None, monkeypatch) -> tuple[Tensor, Tensor]:
    """Losses at counted tokens, and the gradient of their weighted sum with respect to the hidden states."""
    monkeypatch.setattr(loss, "LEAST_TOKENS", 1)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 2**24 if chunk is None else chunk * model.vocabulary)
    states = model.hidden(batch.ids).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "hidden", lambda self, ids: states)
        nll, _ = counted_nll(model, batch)
    (gradient,) = torch.autograd.grad(nll @ torch.linspace(0.5, 2, len(nll), dtype=nll.dtype), states)
    return nll.detach(), gradient


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_chunks_of_logits_change_neither_losses_nor_gradients(chunk, double_model, monkeypatch):
    batch = collate(ROWS, CPU)
    assert count(ROWS) > 10
    nll, gradient = pulled_back(double_model, batch, None, monkeypatch)
    chunked_nll, chunked_gradient = pulled_back(double_model, batch, chunk, monkeypatch)
    assert torch.allclose(chunked_nll, nll, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-2
    assert torch.allclose(chunked_gradient, gradient, rtol=0, atol=1e-12)


@contextmanager
def noted_sizes(model) -> Iterator[list[int]]:
    """Rows of logits in each call of the head."""
    sizes: list[int] = []
    head = model.base.get_output_embeddings()
    with head.register_forward_hook(lambda _, args, out: sizes.append(out.shape[-2])):
        yield sizes


def sizes_of_logits(model, batch: Batch) -> list[int]:
    """Over a forward and a backward pass."""
    with noted_sizes(model) as sizes:
        attach(model.layers, leaves := {name: t[None].requires_grad_() for name, t in start_of(model).items()})
        client_losses(model, batch, torch.tensor([0] * len(ROWS)), torch.tensor([count(ROWS)])).sum().backward()
        detach(model.layers)
    assert all(leaf.grad is not None for leaf in leaves.values())
    return sizes


def start_of(model) -> Tree:
    return initial_adapter(model.layers, rank=4, seed=0)


def test_no_more_logits_live_than_the_budget_and_none_is_computed_twice(tiny_model, monkeypatch):
    batch = collate(ROWS, CPU)
    assert sizes_of_logits(tiny_model, batch) == [count(ROWS)]  # a small batch in one piece
    monkeypatch.setattr(loss, "LEAST_TOKENS", 1)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 4 * tiny_model.vocabulary + 1)
    sizes = sizes_of_logits(tiny_model, batch)
    assert max(sizes) == 4
    assert sum(sizes) == count(ROWS)


def test_chunks_are_also_cut_where_no_gradient_is_wanted(tiny_model, monkeypatch):
    batch = collate(ROWS, CPU)
    with torch.no_grad():
        whole, _ = counted_nll(tiny_model, batch)
        monkeypatch.setattr(loss, "LEAST_TOKENS", 1)
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 5 * tiny_model.vocabulary)
        with noted_sizes(tiny_model) as sizes:
            chunked, _ = counted_nll(tiny_model, batch)
    assert sizes == [len(part) for part in whole.split(5)]
    assert torch.allclose(chunked, whole, atol=1e-5)
