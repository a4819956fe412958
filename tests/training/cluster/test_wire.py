"""What goes to workers and back is what was sent, bit by bit, and no row of a split is among it."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from resumed_rounds import same_bits
from tiny import LOCAL, client_task, random_part

from fedllm_bench.data.pairs import AnswerPart
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.cluster.wire import SentResult, SentTask, packed, plain_rows, unpacked

TREES: dict[str, Any] = {
    "float32": {"a": torch.randn(3, 4), "turned": torch.randn(4, 3).T, "nothing": torch.zeros(0, 2)},
    "other types": {
        "bfloat16": torch.randn(5).bfloat16(),
        "float16": torch.randn(2, 2).half(),
        "float64": torch.tensor(0.1, dtype=torch.float64),
        "long": torch.tensor([2**40]),
        "bool": torch.tensor([True, False]),
    },
    **Codec(dtype="int4", scales="row", top_k=0.5).encoded({"delta": {"a": torch.randn(3, 5)}}),
    "not finite": {"x": torch.tensor([float("inf"), -0.0, float("-inf")])},
}


def test_trees_come_back_bit_by_bit_in_memory_of_their_own() -> None:
    sent = packed(TREES)
    back = unpacked(pickle.loads(pickle.dumps(sent)))
    assert same_bits(back, TREES)
    assert [t.dtype for t in back["other types"].values()] == [t.dtype for t in TREES["other types"].values()]
    for tree in unpacked(sent).values():
        for tensor in tree.values():
            tensor.zero_()
    assert same_bits(unpacked(sent), TREES)


def test_a_task_is_sent_without_rows_and_comes_back_whole() -> None:
    part = random_part(seed=1, num_rows=1000)
    task = client_task(3, part, range(20), LOCAL, steps=2, state={"c": {"x": torch.randn(4)}})
    sent = pickle.dumps(SentTask.of(task))
    assert len(sent) < part.ids.nbytes / 4
    back = pickle.loads(sent).with_rows(part)
    assert same_bits(back.state, task.state)
    assert {key: value for key, value in vars(back).items() if key != "state"} == {
        key: value for key, value in vars(task).items() if key != "state"
    }


def test_a_result_comes_back_whole() -> None:
    result = ClientResult(
        client=1,
        client_id="one",
        upload={"delta": {"x": torch.randn(3)}},
        state={},
        num_examples=4,
        losses=(1.5, 0.25),
        failure="why",
    )
    assert same_bits(vars(pickle.loads(pickle.dumps(SentResult.of(result))).result()), vars(result))


def test_rows_that_are_mapped_from_a_file_are_sent_as_plain_arrays(tiny_clients: Any, pair_clients: Any) -> None:
    pairs = pair_clients.tokens["train"]
    for rows in (tiny_clients.tokens["train"], pairs, AnswerPart(pairs)):
        back = pickle.loads(pickle.dumps(plain_rows(rows)))
        assert type(back.ids).__name__ == "ndarray"
        assert len(back) == len(rows) > 3
        for number in (0, len(rows) - 1):
            assert [s.ids.tolist() for s in back[number].sequences] == [s.ids.tolist() for s in rows[number].sequences]
    assert plain_rows(AnswerPart(pairs))[3].reference == pairs[1].reference[1]
