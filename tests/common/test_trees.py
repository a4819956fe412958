"""Arithmetic on trees, and the packing of a tree into one vector."""

from __future__ import annotations

import math

import pytest
import torch

from fedllm_bench.common.trees import Layout, moved_to, norm, num_bytes, tmap, zeros_like

TREE = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor([5.0])}


def test_tmap_joins_tensors_by_name_not_by_place():
    other = {"a": torch.tensor([10.0]), "b": torch.full((2, 2), 100.0)}
    found = tmap(torch.add, TREE, other)
    assert found["a"].tolist() == [15.0]
    assert found["b"].tolist() == [[101.0, 102.0], [103.0, 104.0]]
    assert list(found) == ["b", "a"]  # the order of the first: it is that of the packed vector


@pytest.mark.parametrize("other", [{"b": TREE["b"]}, {**TREE, "c": TREE["a"]}])
def test_trees_with_other_names_are_refused(other):
    with pytest.raises(ValueError, match="different tensor names"):
        tmap(torch.add, TREE, other)


def test_norm_is_over_all_tensors():
    assert norm(TREE) == pytest.approx(math.sqrt(1 + 4 + 9 + 16 + 25), rel=1e-12)
    assert norm(zeros_like(TREE)) == 0
    assert norm({"a": torch.tensor([1e25])}) == pytest.approx(1e25)  # its square overflows float32


def test_bytes_are_those_of_every_tensor_of_every_tree():
    assert num_bytes({"params": TREE, "c": TREE}) == 2 * 5 * 4
    assert num_bytes({"half": {"a": torch.zeros(3, dtype=torch.bfloat16)}}) == 6
    assert num_bytes({}) == 0


def test_every_tensor_of_every_tree_is_moved():
    found = moved_to(torch.device("meta"), {"params": TREE, "c": TREE})
    assert list(found) == ["params", "c"]
    assert [list(tree) for tree in found.values()] == [["b", "a"]] * 2
    assert {tensor.device.type for tree in found.values() for tensor in tree.values()} == {"meta"}


def test_packing_and_unpacking_give_the_tree_back():
    layout = Layout.of(TREE)
    packed = layout.pack(TREE)
    assert packed.tolist() == [1, 2, 3, 4, 5]
    back = layout.unpack(packed)
    assert list(back) == list(TREE)
    assert all(torch.equal(back[name], TREE[name]) for name in TREE)


def test_packing_follows_the_layout_and_copies():
    layout = Layout.of(TREE)
    packed = layout.pack({"a": TREE["a"], "b": TREE["b"]})
    assert packed.tolist() == [1, 2, 3, 4, 5]
    packed.zero_()
    assert TREE["a"].tolist() == [5.0]


def test_many_vectors_unpack_side_by_side():
    layout = Layout.of(TREE)
    packed_KP = torch.stack([layout.pack(TREE), 10 * layout.pack(TREE)])
    found = layout.unpack(packed_KP)
    assert found["b"].shape == (2, 2, 2)
    assert found["b"][1].tolist() == [[10, 20], [30, 40]]
    assert found["a"].tolist() == [[5], [50]]
