"""Numbers on the wire: rounding, packing, the largest numbers, and what cannot travel."""

from __future__ import annotations

import math

import pytest
import torch

from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.methods.communication.codec import LEVELS, LIKE, SCALE, Codec, from_bytes, largest, two_to_a_byte
from fedllm_bench.training.client_round import upload_failure

SHAPES = {"x.lora_A.weight": (3, 40), "x.lora_B.weight": (7, 3), "bias": (5,), "one": ()}  # 21 is odd


def tree(seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tree:
    stream = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=stream, dtype=dtype) for name, shape in SHAPES.items()}


def there_and_back(codec: Codec, sent: Tree) -> Tree:
    return codec.decoded(codec.encoded({"delta": sent}))["delta"]


CODECS = [
    Codec(dtype=dtype, scales=scales, top_k=top_k)
    for dtype in ("float32", "float16", "int8", "int4")
    for scales in ("tensor", "row")
    for top_k in (1.0, 0.3, 1e-9)
    if scales == "tensor" or dtype in LEVELS
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_shapes_types_and_names_come_back(codec, dtype):
    meant = tree(dtype=dtype)
    heard = there_and_back(codec, meant)
    assert list(heard) == list(meant)
    assert [(t.shape, t.dtype) for t in heard.values()] == [(t.shape, dtype) for t in meant.values()]


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_no_tensor_is_passed_over(codec):
    """Every tensor of floating-point numbers is rounded, whatever its name."""
    if codec.dtype == "float32" or codec.top_k < 1:
        return
    sent, heard = codec.encoded({"delta": tree()}), there_and_back(codec, tree())
    kinds = {"float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}
    assert {t.dtype for t in sent["delta"].values()} == {kinds[codec.dtype]}
    assert sent["delta"].keys() == set(SHAPES)
    assert all(not torch.equal(heard[name], t) for name, t in tree().items() if t.ndim)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", LEVELS)
@pytest.mark.parametrize("scales", ["tensor", "row"])
def test_an_error_is_half_a_step_at_most(dtype, scales, scale):
    codec = Codec(dtype=dtype, scales=scales)
    meant = tree(scale=scale)
    sent = codec.encoded({"delta": meant})
    heard = codec.decoded(sent)["delta"]
    for name, tensor in meant.items():
        step = sent["delta" + SCALE][name]
        assert bool(((tensor - heard[name]).abs() <= step / 2 * (1 + 1e-4)).all())
        assert float(step.max()) == pytest.approx(float(tensor.abs().max()) / LEVELS[dtype], rel=1e-6)


@pytest.mark.parametrize("dtype", LEVELS)
def test_a_scale_for_each_row_is_no_worse(dtype):
    """A row of A and a column of B: as many scales as the adapter has ranks."""
    meant = tree()
    meant["x.lora_A.weight"] *= torch.tensor([[1.0], [0.1], [0.01]])
    meant["x.lora_B.weight"] *= torch.tensor([1.0, 0.1, 0.01])
    codecs = {scales: Codec(dtype=dtype, scales=scales) for scales in ("tensor", "row")}
    sent = {scales: codec.encoded({"d": meant})["d" + SCALE] for scales, codec in codecs.items()}
    assert sent["row"]["x.lora_A.weight"].shape == (3, 1)
    assert sent["row"]["x.lora_B.weight"].shape == (1, 3)
    for name, tensor in meant.items():
        assert bool((sent["row"][name] <= sent["tensor"][name]).all())
        errors = {
            scales: float((tensor - there_and_back(codec, {name: tensor})[name]).norm())
            for scales, codec in codecs.items()
        }
        assert errors["row"] <= errors["tensor"]


def test_int4_is_two_to_a_byte():
    for codes in ([-8, 7, 0], [-7, -1, 3, 5], [2], []):
        packed = two_to_a_byte(torch.tensor(codes, dtype=torch.int8))
        assert packed.dtype == torch.uint8
        assert len(packed) == math.ceil(len(codes) / 2)
        assert from_bytes(packed, len(codes)).tolist() == codes
    assert two_to_a_byte(torch.tensor([-7, 7], dtype=torch.int8)).tolist() == [1 + 16 * 15]


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (Codec(dtype="float16"), 2 * 147),
        (Codec(dtype="int8"), 147 + 4 * 4),
        (Codec(dtype="int8", scales="row"), 147 + 4 * (3 + 3 + 1 + 1)),
        (Codec(dtype="int4"), 60 + 11 + 3 + 1 + 4 * 4),
        (Codec(top_k=0.1), 15 * (4 + 4)),
        (Codec(top_k=0.1, dtype="int8"), 15 * (1 + 4) + 4 * 4),
        (Codec(top_k=0.1, dtype="int4"), 8 + 15 * 4 + 4 * 4),
        (Codec(top_k=1e-9), 8),
    ],
    ids=str,
)
def test_bytes_are_those_of_the_tensors_on_memory_or_none(codec, expected):
    """The same on tensors that have no memory, of which bytes are known before a run."""
    for meant in (tree(), {name: tensor.to("meta") for name, tensor in tree().items()}):
        assert num_bytes(codec.encoded({"delta": meant})) == expected


@pytest.mark.parametrize("codec", [Codec(dtype="int8"), Codec(dtype="int4", scales="row")], ids=str)
def test_bytes_are_counted_without_arithmetic(codec, monkeypatch):
    """They are for each client of each round, and arithmetic on tensors without memory takes milliseconds each."""
    for name in ("abs", "round", "clamp", "__truediv__", "__add__", "amax"):
        monkeypatch.setattr(torch.Tensor, name, None)
    codec.encoded({"delta": {name: tensor.to("meta") for name, tensor in tree().items()}})


def test_the_largest_numbers_of_all_tensors_are_sent():
    meant = {"a": torch.tensor([[0.5, -3.0], [0.1, 2.0]]), "b": torch.tensor([-0.2, 1.0])}
    heard = there_and_back(Codec(top_k=0.5), meant)
    assert heard["a"].tolist() == [[0.0, -3.0], [0.0, 2.0]]
    assert heard["b"].tolist() == [0.0, 1.0]
    assert largest(torch.arange(10.0), 1.0).tolist() == list(range(10))


def test_all_numbers_in_float32_are_sent_as_they_are():
    heard = there_and_back(Codec(), tree())
    assert all(torch.equal(heard[name], tensor) for name, tensor in tree().items())


def test_a_tree_of_other_numbers_stays_as_it_is():
    seeds = {"seeds": torch.tensor([3, 2**40]), "loss": torch.tensor(0.3)}
    for codec in CODECS:
        assert codec.encoded({"seeds": seeds, "none": {}}) == {"seeds": seeds, "none": {}}
        assert codec.decoded({"seeds": seeds, "none": {}}) == {"seeds": seeds, "none": {}}


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_zeros_and_one_huge_number_come_back(codec):
    zeros = there_and_back(codec, {"w": torch.zeros(3, 5)})["w"]
    assert torch.equal(zeros, torch.zeros(3, 5))
    if codec.dtype == "float16":
        return
    huge = torch.zeros(3, 5)
    huge[1, 2] = 3e38
    heard = there_and_back(codec, {"w": huge})["w"]
    assert heard == pytest.approx(huge, rel=1e-6)
    smallest = torch.full((2, 2), 1e-44)  # its scale would be 0
    assert there_and_back(codec, {"w": smallest})["w"].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_what_is_not_finite_is_a_failure_with_a_name(codec, bad):
    broken = tree()
    broken["x.lora_A.weight"][1, 2] = bad
    problem = upload_failure(codec.encoded({"delta": broken}))
    assert problem is not None
    assert "its upload is not finite in float" in problem
    assert "(delta" in problem
    assert upload_failure(codec.encoded({"delta": tree()})) is None


def test_a_number_that_would_be_read_as_an_infinity_is_a_failure():
    largest_float = torch.finfo(torch.float32).max
    for codec in (Codec(dtype="int8"), Codec(dtype="int4")):
        sent = codec.encoded({"delta": {"w": torch.tensor([largest_float])}})
        assert upload_failure(sent) is not None or bool(codec.decoded(sent)["delta"]["w"].isfinite().all())


def test_shapes_take_no_bytes():
    like = Codec(dtype="int4").encoded({"delta": tree()})["delta" + LIKE]
    assert num_bytes({"like": like}) == 0
    assert {name: tuple(tensor.shape[1:]) for name, tensor in like.items()} == SHAPES
