"""Answers in batches against the definition: one token after another, the whole text through the model each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch

from fedllm_bench.evaluation.answering import decoding, kv_cache
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.evaluation.answering.sampling import uniforms
from fedllm_bench.metrics.running import end_tokens
from fedllm_bench.training.model.lora_model import LoraModel

LENGTHS = (3, 17, 1, 9, 30, 4, 22, 12)
LIMITS = (6, 9, 12, 1, 7, 12, 5, 10)


def make_rows(temperatures: tuple[float, ...] = (0.0, 0.7, 3.0)) -> list[DecodingRow]:
    """Ragged prompts with unequal limits, greedy and sampled ones in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (length, limit) in enumerate(zip(LENGTHS, LIMITS, strict=True)):
        temperature = temperatures[number % len(temperatures)]
        stream = uniforms(0, "b", str(number), 0, limit) if temperature else np.zeros(0)
        rows.append(
            DecodingRow((str(number), 0), tuple(rng.integers(4, 3000, length).tolist()), limit, temperature, stream)
        )
    return rows


def by_definition(model: LoraModel, row: DecodingRow) -> tuple[int, ...]:
    made: list[int] = []
    for step in range(row.limit):
        with torch.no_grad():
            logits = model.base(input_ids=torch.tensor([[*row.prompt, *made]]), use_cache=False).logits[0, -1].double()
        if row.temperature:
            p = torch.softmax(logits / row.temperature, -1).cumsum(0)
            made.append(int((p <= row.uniforms[step]).sum()))
        else:
            made.append(int(logits.argmax()))
        if made[-1] in end_tokens(model):
            break
    return tuple(made)


def answers(model: LoraModel, rows: list[DecodingRow], batch_tokens: int = 4096) -> dict[tuple[str, int], DecodingRow]:
    with model.using(None):
        found = [row for some in decode(model, Queue(list(rows)), batch_tokens) for row in some]
    assert len(found) == len(rows)
    return {row.key: row for row in found}


def made(found: dict[tuple[str, int], DecodingRow]) -> dict[tuple[str, int], tuple[int, ...]]:
    return {key: row.made for key, row in found.items()}


@pytest.fixture(scope="module")
def expected(double_model: LoraModel) -> dict[tuple[str, int], tuple[int, ...]]:
    return {row.key: by_definition(double_model, row) for row in make_rows()}


class Older(torch.nn.Module):
    def forward(self, input_ids, past_key_values=None):
        return past_key_values


def test_the_cache_is_given_by_the_name_that_the_model_takes(double_model: LoraModel):
    cache = kv_cache.read(double_model.base, [[5, 6, 7]], double_model.device)
    assert Older()(None, **kv_cache.as_argument(Older(), cache)) is cache
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        again = kv_cache.read(double_model.base, [[5, 6, 7]], double_model.device)
        answers(double_model, make_rows()[:2])
    assert torch.equal(cache.layers[0].keys, again.layers[0].keys)
    assert cache.get_seq_length() == again.get_seq_length() == 2


@pytest.mark.parametrize("batch_tokens", [1, 90, 10_000])
@pytest.mark.parametrize("stretch", [2, 64])
@pytest.mark.parametrize("padding", [0, 15, 10_000])
def test_batches_of_any_make_up_give_the_answers_of_the_definition(
    batch_tokens, stretch, padding, double_model, expected, monkeypatch
):
    monkeypatch.setattr(decoding, "STRETCH", stretch)
    monkeypatch.setattr(decoding, "PADDING", padding)
    monkeypatch.setattr(kv_cache, "ROOM", 3)
    monkeypatch.setattr(kv_cache, "READ_TOKENS", padding + 8)
    rows = make_rows()
    assert made(answers(double_model, rows, batch_tokens)) == expected
    assert made(answers(double_model, rows[::-3], batch_tokens)) == {row.key: expected[row.key] for row in rows[::-3]}


def test_the_definition_is_not_trivial(double_model, expected):
    assert len(set(expected.values())) == len(LENGTHS)
    greedy = {row.key: by_definition(double_model, row) for row in make_rows((0.0,))}
    assert sum(greedy[key] != expected[key] for key in expected) >= 4


def test_rows_that_outlast_their_batch_wait_and_go_on_where_they_were(double_model, expected, monkeypatch):
    monkeypatch.setattr(decoding, "STRETCH", 2)
    monkeypatch.setattr(decoding, "LEFT", 2)
    begun: list[list[int]] = []
    real = decoding._begin

    def noting(model: LoraModel, rows: list[DecodingRow]) -> decoding.DecodingBatch:
        begun.append([len(row.made) for row in rows])
        return real(model, rows)

    monkeypatch.setattr(decoding, "_begin", noting)
    assert made(answers(double_model, make_rows(), batch_tokens=90)) == expected
    assert any(count > 0 for batch in begun for count in batch)
    assert any(len(batch) > 1 for batch in begun)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt2", "cohere"])
def test_other_architectures_give_the_answers_of_the_definition(kind, tmp_path: Path):
    # transformers' eager attention makes a float64 mask infinite in float32, where whole rows of it are padding
    dtype = "float32" if kind == "gemma2" else "float64"
    model = architectures.load(architectures.make_folder(tmp_path / kind, kind), "all-linear", dtype=dtype)
    rows = make_rows()
    assert made(answers(model, rows, 200)) == {row.key: by_definition(model, row) for row in rows}


def test_a_window_of_attention_is_kept_to(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(architectures.OF_ITS_OWN, "mistral", {"sliding_window": 8})
    model = architectures.load(architectures.make_folder(tmp_path / "window", "mistral"))
    assert not kv_cache.is_plain(model.base)
    rows = make_rows()
    assert made(answers(model, rows, 200)) == {row.key: by_definition(model, row) for row in rows}


def test_an_answer_ends_at_any_end_token_and_keeps_it(double_model, expected, monkeypatch):
    key, tokens = max(expected.items(), key=lambda pair: len(pair[1]))
    cut = next(i for i, token in enumerate(tokens) if i >= 2 and token not in tokens[:i])
    monkeypatch.setattr(double_model.base.generation_config, "eos_token_id", [3, tokens[cut]])
    row = answers(double_model, make_rows())[key]
    assert (row.made, row.finish) == (tokens[: cut + 1], "stop")
    monkeypatch.setattr(double_model.base.generation_config, "eos_token_id", None)
    row = answers(double_model, make_rows())[key]
    assert row.made == tokens
    assert row.finish == ("stop" if tokens[-1] == double_model.tokenizer.eos_token_id else "length")


def _head(num_tokens: int) -> torch.nn.Linear:
    """Always the same: under some heads another row generates the poisoned token and fails too."""
    head = torch.nn.Linear(32, num_tokens, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return head


def test_logits_that_are_not_finite_fail_their_row_alone(load_tiny, monkeypatch):
    model = load_tiny(dtype="float64")
    rows = make_rows((0.0,))
    poison = next(token for token in rows[4].prompt if all(token not in row.prompt for row in rows if row != rows[4]))
    with torch.no_grad():
        model.base.get_input_embeddings().weight[poison] = torch.nan
    monkeypatch.setattr(model.base, "lm_head", _head(3072))
    found = answers(model, rows)
    assert {key: row.finish for key, row in found.items() if row.finish == "failed"} == {("4", 0): "failed"}
    assert (found["4", 0].reason, found["4", 0].made) == (decoding.NOT_FINITE, ())


class Short:
    """Memory for `rows` rows at once."""

    def __init__(self, rows: int) -> None:
        self.rows, self.real, self.failures = rows, decoding._generate, 0

    def __call__(self, model: LoraModel, batch: decoding.DecodingBatch, *rest: object) -> torch.Tensor:
        if len(batch.rows) > self.rows:
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        return self.real(model, batch, *rest)


def test_without_memory_batches_get_smaller_and_answers_stay(double_model, expected, monkeypatch):
    monkeypatch.setattr(decoding, "free_memory", lambda: None)  # a second of collecting garbage, each time
    short = Short(2)
    monkeypatch.setattr(decoding, "_generate", short)
    assert made(answers(double_model, make_rows())) == expected
    assert 1 <= short.failures <= 3
    monkeypatch.setattr(decoding, "_generate", Short(0))
    found = answers(double_model, make_rows())
    assert {(row.finish, row.reason) for row in found.values()} == {("failed", decoding.NO_MEMORY)}


def test_a_real_error_is_not_taken_for_a_lack_of_memory(double_model, monkeypatch):
    def broken(*args: object) -> Iterator[None]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(decoding, "_generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        answers(double_model, make_rows())


def test_batches_hold_to_the_budget_and_take_the_shortest_first():
    rows = make_rows()
    queue, sizes = Queue(list(rows)), []
    while queue.waiting:
        batch = queue.take(90)
        sizes.append(len(batch))
        assert len(batch) == 1 or max(row.longest for row in batch) * len(batch) <= 90
        assert all(row.length <= other.length for row in batch for other in queue.waiting)
    assert sum(sizes) == len(rows)
    assert len(sizes) < len(rows)
    assert len(Queue(list(rows)).take(1)) == 1
