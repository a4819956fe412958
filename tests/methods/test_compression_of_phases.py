"""Rounded uploads and downloads around methods with phases, own models or a base that changes."""

from __future__ import annotations

import pytest
import torch
from papers import PARTS, PROXIMAL
from resumed_rounds import same_bits

from fedllm_bench.common.trees import num_bytes, tmap
from fedllm_bench.methods.adapters.halves import Alternate
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import UNSENT, SmallDownloads, SmallUploads
from fedllm_bench.methods.ditto import Ditto
from fedllm_bench.methods.fedrep import FedRep
from fedllm_bench.methods.pfedme import PFedMe
from fedllm_bench.methods.products.stack import Stack


@pytest.mark.parametrize("inner", [Ditto(lam=0.5), PFedMe(**PROXIMAL), FedRep(**PARTS)], ids=lambda m: type(m).__name__)
def test_phases_of_a_round_spend_what_was_unsent_once(inner):
    """The last upload of a round stands: with it, what was sent and what is left are what was meant in all rounds."""
    stream = torch.Generator().manual_seed(3)
    start = {name: torch.zeros(4, 6, dtype=torch.float64) for name in ("w", "phi")}
    method = SmallUploads(inner=inner, codec=Codec(top_k=0.2), error_feedback=True)
    told = {"params": start}
    state, plain = method.client_init(start), inner.client_init(start)
    meant, sent = dict(start), dict(start)
    for _ in range(5):
        round_sent, round_meant = {}, {}
        for ours, theirs in zip(method.phases(6), inner.phases(6), strict=True):
            y = tmap(lambda t: torch.randn(t.shape, generator=stream, dtype=t.dtype), start)
            state, upload = ours.method.finish(told, state, y, start, 1, 1.0)
            plain, whole = theirs.method.finish(told, plain, y, start, 1, 1.0)
            round_sent, round_meant = round_sent | method.codec.decoded(upload), round_meant | whole
        meant = {name: meant[name] + t for name, t in round_meant["delta"].items()}
        sent = {name: sent[name] + t for name, t in round_sent["delta"].items()}
    for name, tensor in meant.items():
        assert torch.allclose(sent[name] + state[UNSENT + "delta"][name], tensor, rtol=0, atol=1e-12)
        assert not torch.allclose(sent[name], tensor)


def test_a_client_begins_its_own_model_with_what_it_gets():
    start = {name: torch.randn(3, 8, generator=torch.Generator().manual_seed(4)) for name in ("w", "phi")}
    for inner in (Ditto(lam=0.1), FedRep(**PARTS)):
        method = SmallDownloads(inner=inner, codec=Codec(dtype="int4"))
        message = method.broadcast(method.init(start))
        assert same_bits(method.client_init(start), inner.client_init(message["params"]))
    assert torch.equal(method.client_init(start)["own"]["w"], start["w"])  # no part of a message


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_a_change_of_the_base_is_rounded_also_where_its_product_goes(rank):
    """6 x 8 numbers of the product are fewer than 14 of each rank from rank 4 on."""
    start = {"l.lora_A.weight": torch.randn(2, 8), "l.lora_B.weight": torch.zeros(6, 2)}
    change = {"l.lora_A.weight": torch.randn(rank, 8), "l.lora_B.weight": torch.randn(6, rank)}
    codec = Codec(dtype="int4")
    method = SmallDownloads(inner=Stack(inner=FedAvg(), seed=0), codec=codec)
    message = method.broadcast(Server(start, {"residual": change}))
    assert same_bits(message["residual"], codec.decoded(codec.encoded({"residual": change}))["residual"])
    assert num_bytes(method.travels(message, {})) == (14 + 8 if rank == 2 else 24 + 4)


@pytest.mark.parametrize("everyone", [True, False])
def test_the_half_that_went_in_an_earlier_round_is_as_it_was_rounded_then(everyone):
    """Where all clients have the other half already, they have it from the network, and not as the server keeps it."""
    start = {f"l.lora_{part}.weight": torch.linspace(-1, 1, 12).view(3, 4) ** 3 for part in "AB"}
    codec = Codec(dtype="int4")
    method = SmallDownloads(inner=Alternate(inner=FedAvg(), everyone=everyone), codec=codec)
    rounded = codec.decoded(codec.encoded({"params": start}))["params"]
    assert not same_bits(rounded, start)
    for number in range(3):
        server = Server(start, round=number)
        assert same_bits(method.broadcast(server)["params"], rounded)
        going = method.travels(method.broadcast(server), method.tell(server, 0))
        assert len(going["params"]) == (1 if everyone else 2)
