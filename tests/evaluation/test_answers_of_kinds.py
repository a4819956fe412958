"""Answers under each kind of adapter: by our decoding with its cache, and from a folder that a run or PEFT left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kind_models import KINDS, load_kind, random_start
from safetensors.torch import save_file

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json, write_json
from fedllm_bench.common.trees import tmap
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.evaluation.answering.subjects import GLOBAL, Resident, read_adapter, subject_of_adapter
from fedllm_bench.evaluation.closed.shared_prefix import beginning, hidden_behind
from fedllm_bench.training.model.kinds.saving import save_kind

NO_END = frozenset({2999})


def decoded(model, prompts, batch_tokens):
    rows = [DecodingRow((str(n), 0), tuple(ids), 66, 0.0, np.zeros(0)) for n, ids in enumerate(prompts)]
    done = [row for some in decode(model, Queue(rows), batch_tokens, NO_END) for row in some]
    return {row.key: row.made for row in done}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def adapter(kind, tiny_folder, tmp_path_factory):
    """A folder, and the model and the tensors that are in it."""
    model = load_kind(tiny_folder, kind)
    tree = tmap(lambda t: t.float(), random_start(model))
    folder = tmp_path_factory.mktemp(kind) / "adapter"
    save_kind(folder, tree, KINDS[kind], model, str(tiny_folder))
    return folder, model, tree


def test_a_batch_with_a_cache_answers_as_each_prompt_alone(adapter):
    _, model, tree = adapter
    prompts = [[5, 17, 200, 31], [8], [90, 91, 92]]
    with model.using(tree):
        together = decoded(model, prompts, 4096)
        alone = decoded(model, prompts, 1)
    assert together == alone
    assert all(len(made) == 66 for made in together.values())  # more than a stretch of steps


def test_a_common_beginning_is_behind_the_virtual_tokens_too(adapter):
    _, model, tree = adapter
    ids = torch.tensor([[5, 17, 200, 31, 8, 9], [5, 17, 200, 31, 7, 3]])
    with model.using(tree):
        whole = model.hidden(ids)[:, 4:]
        found = hidden_behind(model, beginning(model, ids[0, :4].tolist()), ids[:, 4:])
    assert torch.allclose(found, whole, atol=1e-4)


def test_any_adapter_answers_from_its_folder(kind, adapter):
    folder, model, tree = adapter
    subject = subject_of_adapter(folder, None, "mini", "float32")
    assert subject.adapter.kind == KINDS[kind].written.kind
    side = next(side for side in subject.sides if side.name == GLOBAL)
    ids = torch.tensor([[5, 17, 200, 31]])
    with model.using(tree):
        expected = model.hidden(ids)
    with torch.no_grad(), Resident(subject, "cpu").answering(side) as answering:
        found, elsewhere = answering()
        assert elsewhere is None
        assert torch.allclose(found.hidden(ids), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_virtual_tokens": "3"}, "does not say how many virtual tokens"),
        ({"num_virtual_tokens": 5}, "does not fit this base model"),
        ({"prefix_projection": True}, "has a projection"),
        ({"peft_type": "BOFT"}, "only LORA and IA3 can be merged"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(change, words, tiny_folder, tmp_path):
    model = load_kind(tiny_folder, "prefix")
    tree = tmap(lambda t: t.float(), random_start(model))
    save_kind(tmp_path / "a", tree, KINDS["prefix"], model, str(tiny_folder))
    path = tmp_path / "a" / "adapter_config.json"
    write_json(path, {**read_json(path), **change})

    def read() -> None:
        subject = subject_of_adapter(tmp_path / "a", None, "mini", "float32")
        read_adapter(tmp_path / "a", load_kind(tiny_folder, subject.adapter), 1)

    with pytest.raises(UserError, match=words):
        read()


def test_a_tensor_without_axes_is_of_no_adapter(adapter, tmp_path):
    _, model, _ = adapter
    save_file({"layer.lora_A.weight": torch.zeros(())}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit this base model"):
        read_adapter(tmp_path, model, 4)
