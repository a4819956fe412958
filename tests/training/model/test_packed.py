"""Packed sequences have the states that each has alone, with whatever attention; what cannot be packed is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from architectures import GPT2_SIZES, SIZES, widen_all_norms
from torch import Tensor

from fedllm_bench.training.model import packed
from fedllm_bench.training.model.packed import NAME, hidden_states, packs
from fedllm_bench.training.packing import Packing

WINDOW = {"sliding_window": 4}
PACKED = {
    "llama": {},
    "llama-gqa": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, **WINDOW},
    "qwen3": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], **WINDOW},
    "gpt_neox": {},
    "gpt2": GPT2_SIZES,
    "granite": {"attention_multiplier": 0.5},
}
NOT_PACKED = {
    "gemma2-uncapped": ({"attn_logit_softcapping": None}, "its own attention is eager, not sdpa"),
    "gemma2": ({"attn_logit_softcapping": 50.0}, "packed attention has no softcap"),
    "gpt_oss": ({"num_local_experts": 2, "num_experts_per_tok": 1}, "packed attention has no s_aux"),
    "bloom": ({"n_layer": 2, "n_head": 2}, "its decoder takes no packed rows: "),
    "mamba": ({}, "its decoder takes no packed rows: "),
}
LENGTHS = (9, 9, 3, 14, 1, 6)


def built(kind: str, changes: dict, dtype: torch.dtype = torch.float64):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"pad_token_id": 0, "vocab_size": 101, **({} if kind == "gpt2" else SIZES), **changes}
    config = AutoConfig.for_model(kind.partition("-")[0], **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases begin as ones and zeros, in which errors would hide
                weight.data += 0.1 * torch.randn(weight.shape)
    widen_all_norms(model)
    return model.requires_grad_(False)


def some_ids() -> Tensor:
    return torch.randint(4, 101, (sum(LENGTHS),), generator=torch.Generator().manual_seed(3))


def by_eager(model, ids: Tensor, *, left: bool, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    """States of each sequence, padded on one side, by transformers' own eager attention with an attention mask."""
    width = max(lengths)
    rows, mask, positions = (torch.zeros(len(lengths), width, dtype=torch.long) for _ in range(3))
    places = [slice(width - n, width) if left else slice(n) for n in lengths]
    for number, (row, place) in enumerate(zip(ids.split(lengths), places, strict=True)):
        rows[number, place], mask[number, place], positions[number, place] = row, 1, torch.arange(len(row))
    config = model.get_decoder().config
    before, config._attn_implementation = config._attn_implementation, "eager"
    out = model.get_decoder()(input_ids=rows, attention_mask=mask, position_ids=positions, use_cache=False)
    config._attn_implementation = before
    return torch.cat([row[place] for row, place in zip(out.last_hidden_state, places, strict=True)])


@pytest.fixture
def wide_softmax(monkeypatch):
    """Eager attention rounds to float32 whatever the model's type; here it does not."""
    narrow = F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, dim=None, dtype=None: narrow(x, dim=dim, dtype=x.dtype))


@pytest.mark.parametrize("lengths", [LENGTHS, (14, 14, 14), (42,)])
@pytest.mark.parametrize("kind", PACKED)
def test_packed_sequences_have_the_states_of_eager_attention(kind, lengths, wide_softmax):
    model = built(kind, PACKED[kind])
    ids = some_ids()
    expected = by_eager(model, ids, left=False, lengths=lengths)
    assert torch.allclose(by_eager(model, ids, left=True, lengths=lengths), expected, rtol=0, atol=1e-11)
    assert packs(model) == ""
    assert model.get_decoder().config._attn_implementation == NAME
    found = hidden_states(model, ids[None], Packing.of(lengths, ids.device))[0]
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["llama-gqa", "gemma3_text"])
def test_gradients_of_packed_sequences_are_those_of_eager_attention(kind, wide_softmax):
    model = built(kind, PACKED[kind]).requires_grad_(True)
    ids, weights = some_ids(), torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(4)).double()

    def gradients(states: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((states * weights).sum(), list(model.get_decoder().layers.parameters())))

    expected = gradients(by_eager(model, ids, left=False))
    assert packs(model) == ""
    found = gradients(hidden_states(model, ids[None], Packing.of(LENGTHS, ids.device))[0])
    assert len(found) > 15
    assert all(torch.allclose(ours, theirs, rtol=0, atol=1e-10) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("left", [False, True])
def test_padded_rows_are_as_with_sdpa_after_it_was_installed(left):
    """Else padding would be seen: in generation, for which rows are padded on the left."""
    model = built("mistral", PACKED["mistral"])
    width, short = 9, 4
    rows = some_ids()[: 2 * width].view(2, width)
    mask = torch.ones_like(rows)
    mask[1, : width - short] = 0
    if not left:
        mask = mask.flip(1)
    expected = model(input_ids=rows, attention_mask=mask).logits
    said = model.generate(rows, attention_mask=mask, max_new_tokens=4, do_sample=False) if left else None
    assert packs(model) == ""
    assert torch.equal(model(input_ids=rows, attention_mask=mask).logits[mask.bool()], expected[mask.bool()])
    if said is not None:
        assert torch.equal(model.generate(rows, attention_mask=mask, max_new_tokens=4, do_sample=False), said)


@pytest.mark.parametrize("kind", NOT_PACKED)
def test_what_cannot_be_packed_is_named_and_stays_as_it_was(kind):
    changes, reason = NOT_PACKED[kind]
    model = built(kind, changes, torch.float32)
    config = model.get_decoder().config
    before, ids = config._attn_implementation, some_ids()[None, :9]
    expected = model(input_ids=ids).logits
    problem = packs(model)
    assert problem.startswith(reason)
    assert config._attn_implementation == before != NAME
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_a_sequence_that_sees_another_is_noticed(monkeypatch):
    """The probe can fail: here all sequences are taken for one."""
    model = built("llama", {})
    real = packed.packed_attention

    def as_one(*args, packing=None, **more):
        whole = packing and Packing.of([sum(packing.lengths)], torch.device("cpu"))
        return real(*args, packing=whole, **more)

    monkeypatch.setattr(packed, "packed_attention", as_one)
    assert packs(model) == "a packed sequence gets other states than a padded one"


def test_an_attention_without_a_right_gradient_is_noticed(monkeypatch):
    model = built("llama", {})
    real = packed.packed_attention

    def wrong(*args, packing=None, **more):
        out, _ = real(*args, packing=packing, **more)
        return (out if packing is None else 2 * out - out.detach()), None

    monkeypatch.setattr(packed, "packed_attention", wrong)
    assert packs(model) == "a packed sequence gets another gradient than a padded one"


def test_the_probe_is_longer_than_the_window(monkeypatch):
    """A model whose attention is not told of its window would pass a probe of short rows."""
    model = built("mistral", {"sliding_window": 20})
    assert packed._probed_lengths(model.config.to_dict()) == (22, 5)
    real = packed.packed_attention
    blind = lambda *args, sliding_window=None, **more: real(*args, **more)  # noqa: E731
    monkeypatch.setattr(packed, "packed_attention", blind)
    assert packs(model) == "a packed sequence gets other states than a padded one"


def test_a_packed_pass_of_a_model_that_was_not_asked_is_refused():
    """Its attention would take all sequences for one."""
    with pytest.raises(ValueError, match="a packed pass with the attention sdpa"):
        hidden_states(built("llama", {}), some_ids()[None], Packing.of(LENGTHS, torch.device("cpu")))


def test_on_a_gpu_single_precision_is_padded():
    class OnCuda:
        device, dtype = torch.device("cuda"), torch.float32

    assert packs(OnCuda()) == "varlen attention takes half precision, not float32"


OLD = frozenset({"query", "key", "is_causal"})
NEW = frozenset({"query", "key", "window_size", "scale", "enable_gqa"})


def test_varlen_attention_is_called_as_this_torch_takes_it():
    q, k = torch.ones(7, 4, 16), torch.ones(7, 2, 16)
    options, query = packed._varlen_options(NEW, q, k, 0.5, None)
    assert options == {"window_size": (-1, 0), "enable_gqa": True, "scale": 0.5}
    assert query is q
    assert packed._varlen_options(NEW, q, q, None, 4)[0] == {"window_size": (3, 0)}
    options, query = packed._varlen_options(OLD, q, q, 0.5, None)
    assert options == {"is_causal": True}
    assert torch.equal(query, 2 * q)  # whose own scale is 1/4
    with pytest.raises(ValueError, match="no sliding window"):
        packed._varlen_options(OLD, q, q, None, 4)


def test_varlen_attention_of_the_installed_torch_has_the_arguments_we_know():
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    known = frozenset(inspect.signature(varlen_attn).parameters)
    options, _ = packed._varlen_options(known, torch.ones(3, 2, 8), torch.ones(3, 1, 8), 0.3, None)
    assert options.keys() <= known
    assert options.keys() & {"window_size", "is_causal"}
