"""Kinds of adapters against plain PEFT, forward and in files, and the bottleneck against its equation."""

from __future__ import annotations

import pytest
import torch
from architectures import make_folder
from kind_models import KINDS, VIRTUAL, load_kind, loss_of, plain_of, random_start, real_logits, weights_of
from tiny import CPU, random_part

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json, write_json
from fedllm_bench.common.trees import num_bytes, tmap
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.metrics.running import GreedyBatch
from fedllm_bench.training.batches import collate
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model import limits
from fedllm_bench.training.model.adapter import merged
from fedllm_bench.training.model.kinds.loading import attach_bottleneck, read_tensors
from fedllm_bench.training.model.kinds.saving import save_kind, written_tree
from fedllm_bench.training.model.lora import initial_adapter

ROWS = list(random_part(seed=4, num_rows=5))
IDS = collate(ROWS, CPU).ids


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def double(kind, tiny_folder):
    return load_kind(tiny_folder, kind, "float64")


def losses_of(model, rows):
    owners, counted = torch.tensor([0] * len(rows)), torch.tensor([sum(row.num_counted for row in rows)])
    return client_losses(model, collate(rows, CPU, packed=model.plan.packed), owners, counted)


def test_logits_and_loss_are_those_of_plain_peft(kind, double, tiny_folder):
    tree = random_start(double)
    theirs, _ = plain_of(tiny_folder, kind, tree, torch.float64)
    alone = double.base(input_ids=IDS).logits
    with torch.no_grad(), double.using(tree):
        ours = double.base(input_ids=IDS).logits
        assert torch.allclose(real_logits(theirs, kind, input_ids=IDS), ours, atol=1e-10)
        assert losses_of(double, ROWS).item() == pytest.approx(loss_of(theirs, kind, ROWS).item(), rel=1e-10)
        assert not torch.allclose(ours, alone, atol=1e-2)
    assert torch.equal(double.base(input_ids=IDS).logits, alone)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "opt"])
@pytest.mark.parametrize("of", ["prefix", "prompt"])
def test_positions_and_masks_are_those_of_peft_in_other_architectures(name, of, tmp_path_factory, tmp_path):
    folder = make_folder(tmp_path_factory.mktemp("of") / name, name)
    model = load_kind(folder, of, "float64")
    tree = random_start(model)
    theirs, _ = plain_of(folder, of, tree, torch.float64)
    with torch.no_grad(), model.using(tree):
        assert torch.allclose(real_logits(theirs, of, input_ids=IDS), model.base(input_ids=IDS).logits, atol=1e-4)


def test_padding_on_either_side_changes_nothing(kind, double):
    """As answers are made: padded in front, with positions that a mask counts; and as rows are scored."""
    lengths = [len(row.ids) for row in ROWS]
    width = max(lengths)
    left = torch.stack([torch.cat([ids.new_zeros(width - n), ids[:n]]) for ids, n in zip(IDS, lengths, strict=True)])
    mask = torch.stack([(torch.arange(width) >= width - n).long() for n in lengths])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with double.using(random_start(double)):
        behind = double.hidden(IDS)
        front = double.base.get_decoder()(input_ids=left, attention_mask=mask, position_ids=positions)
        alone = [double.hidden(ids[None, :n])[0] for ids, n in zip(IDS, lengths, strict=True)]
    for row, n in enumerate(lengths):
        assert torch.allclose(behind[row, :n], alone[row], atol=1e-10)
        assert torch.allclose(front.last_hidden_state[row, width - n :], alone[row], atol=1e-10)


def test_answers_of_a_batch_are_those_of_each_question(kind, double, tiny_folder):
    tree = random_start(double)
    theirs, _ = plain_of(tiny_folder, kind, tree, torch.float64)
    ends = frozenset({double.tokenizer.eos_token_id})
    prompts = [row.ids[:n].tolist() for row, n in zip(ROWS, (2, 4, 3, 4, 3), strict=True)]
    with torch.no_grad(), double.using(tree):
        together = GreedyBatch(prompts, 6, ends)(double)
        alone = [GreedyBatch([prompt], 6, ends)(double)[0] for prompt in prompts]
    assert together == alone
    ids = torch.tensor([prompts[1]])  # PEFT's forward, token by token: its `generate` forgets in transformers 5.24
    for _ in range(6):
        ids = torch.cat([ids, theirs(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    text = double.tokenizer.decode(ids[0, len(prompts[1]) :].tolist(), skip_special_tokens=True)
    assert together[1][0] == text.strip()


def test_several_adapters_in_one_pass_are_each_by_itself(kind, double):
    trees = [random_start(double, seed) for seed in (1, 2, 3)]
    rows = (2, 1, 2)
    with double.using_each(trees, rows):
        together = double.hidden(IDS)
    starts = [0, 2, 3]
    for tree, start, count in zip(trees, starts, rows, strict=True):
        with double.using(tree):
            assert torch.allclose(
                double.hidden(IDS[start : start + count]), together[start : start + count], atol=1e-12
            )


@pytest.mark.parametrize("of", ["ia3", "bottleneck"])
def test_the_untrained_adapter_is_the_base_bit_for_bit(of, tiny_folder):
    model = load_kind(tiny_folder, of)
    with torch.no_grad():
        alone = model.base(input_ids=IDS).logits
    with model.using(initial_adapter(model.layers, rank=4, seed=0)):
        assert torch.equal(model.base(input_ids=IDS).logits, alone)


def test_first_tensors_follow_from_the_seed_alone(kind, double):
    first, again, other = (initial_adapter(double.layers, rank=4, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert kind == "ia3" or any(not torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.dtype == torch.float32 for tensor in first.values())


def test_bytes_are_those_of_the_tokens(tiny_folder):
    """The tiny model: 2 layers, hidden size 32, keys and values of 32 numbers."""
    found = {}
    for kind in KINDS:
        model = load_kind(tiny_folder, kind)
        found[kind] = num_bytes({"delta": initial_adapter(model.layers, rank=4, seed=0)})
    assert found["prefix"] == 4 * 3 * 32 * 2 * 2
    assert found["prompt"] == 4 * 4 * 32
    assert found["p_tuning"] == 4 * (3 * 32 + (32 * 10 + 10) + (10 * 10 + 10) + (10 * 32 + 32))
    assert found["ia3"] == 4 * 2 * (32 + 32 + 64)
    assert found["bottleneck"] == 4 * 2 * 2 * (4 * 32 + 4 + 32 * 4 + 32)


def test_plain_peft_loads_what_is_saved(kind, tiny_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = load_kind(tiny_folder, kind)
    tree = tmap(lambda t: t.float(), random_start(model))
    save_kind(tmp_path / "adapter", tree, KINDS[kind], model, str(tiny_folder))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    load = attach_bottleneck if kind == "bottleneck" else PeftModel.from_pretrained
    theirs = load(base, str(tmp_path / "adapter")).eval()
    with torch.no_grad(), model.using(tree):
        assert torch.allclose(real_logits(theirs, kind, input_ids=IDS), model.base(input_ids=IDS).logits, atol=1e-4)
    assert f"{KINDS[kind].in_words}" in (tmp_path / "adapter" / "README.md").read_text()
    save_kind(tmp_path / "again", tree, KINDS[kind], model, str(tiny_folder))
    for path in (tmp_path / "adapter").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_what_p_tuning_leaves_answers_as_a_prompt(tiny_folder, tmp_path):
    model = load_kind(tiny_folder, "p_tuning")
    tree = tmap(lambda t: t.float(), random_start(model))
    save_kind(tmp_path / "adapter", tree, KINDS["p_tuning"], model, str(tiny_folder))
    written = load_kind(tiny_folder, KINDS["p_tuning"].written)
    with model.using(tree):
        expected = model.hidden(IDS)
    with written.using(read_tensors(tmp_path / "adapter")):
        assert torch.allclose(written.hidden(IDS), expected, atol=1e-5)
    assert written_tree(tree, model.layers).keys() == {"prompt_embeddings"}


def test_ia3_can_be_merged(tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_kind(tiny_folder, "ia3")
    tree = tmap(lambda t: t.float(), random_start(model))
    save_kind(tmp_path / "adapter", tree, KINDS["ia3"], model, str(tiny_folder))
    whole = merged(AutoModelForCausalLM.from_pretrained(tiny_folder), str(tmp_path / "adapter"))
    with torch.no_grad(), model.using(tree):
        assert torch.allclose(whole(input_ids=IDS).logits, model.base(input_ids=IDS).logits, atol=1e-4)


@pytest.mark.parametrize("of", sorted(VIRTUAL))
def test_a_prompt_cannot_be_a_part_of_the_weights(of, tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_kind(tiny_folder, of)
    save_kind(tmp_path / "a", initial_adapter(model.layers, rank=4, seed=0), KINDS[of], model, str(tiny_folder))
    with pytest.raises(UserError, match="only LORA and IA3 can be merged"):
        merged(AutoModelForCausalLM.from_pretrained(tiny_folder), str(tmp_path / "a"))


def test_a_bottleneck_of_another_model_leaves_the_model_as_it_was(tiny_folder, packable_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_kind(tiny_folder, "bottleneck")
    tree = initial_adapter(model.layers, rank=4, seed=0)
    save_kind(tmp_path / "adapter", tree, KINDS["bottleneck"], model, str(tiny_folder))
    other = AutoModelForCausalLM.from_pretrained(packable_folder)
    before = {name: type(module) for name, module in other.named_modules()}
    with pytest.raises(UserError, match="not those of this model"):
        attach_bottleneck(other, tmp_path / "adapter")
    settings = read_json(tmp_path / "adapter" / "adapter_config.json")
    write_json(tmp_path / "adapter" / "adapter_config.json", settings | {"target_modules": ["down_proj", "self_attn"]})
    with pytest.raises(UserError, match="self_attn is a LlamaAttention, and"):
        attach_bottleneck(other, tmp_path / "adapter")
    assert {name: type(module) for name, module in other.named_modules()} == before
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_virtual_tokens_take_positions(tiny_folder):
    model = load_kind(tiny_folder, "prefix")
    assert limits.context_of(model.base) == 512 - 3


@pytest.mark.parametrize(
    ("tokens", "way"), [(4, "--set local.sequence_length=124"), (500, "give fewer adapter.tokens")]
)
def test_too_many_positions_are_told_with_those_of_virtual_tokens(tokens, way, tmp_path):
    model = load_kind(make_folder(tmp_path / "gpt2", "gpt2"), AdapterKind(kind="prefix", tokens=tokens))
    text = f"local.sequence_length=125 and adapter.tokens={tokens} are more than the 128 positions of MODEL=x; {way}"
    with pytest.raises(UserError, match=f"^{text}$"):
        limits.check_length(model.base, "x", 125)


def test_a_base_that_forgets_tokens_takes_no_virtual_ones(tmp_path):
    folder = make_folder(tmp_path / "gemma3", "gemma3_text")
    with pytest.raises(UserError, match=r"adapter.kind=prefix: a layer of gemma3_text keeps .* take lora, ia3"):
        load_kind(folder, "prefix")


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (AdapterKind(kind="ia3", targets=("nope",)), "adapter.targets: no linear layer is called nope"),
        (AdapterKind(kind="ia3", targets=("auto", "k_proj")), "adapter.targets: auto stands alone"),
        (AdapterKind(kind="bottleneck", targets=("lm_head",)), "matches the output head"),
        (AdapterKind(kind="bottleneck", targets=("mlp",)), "adapter.targets: .* LlamaMLP, .* for linear layers"),
    ],
)
def test_wrong_layers_are_refused_in_one_line(adapter, words, tiny_folder):
    with pytest.raises(UserError, match=words):
        load_kind(tiny_folder, adapter)


def test_using_an_adapter_leaves_the_base_as_it_was(kind, double):
    before = weights_of(double)
    with double.using(random_start(double)):
        double.hidden(IDS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(double).items())
