"""What the tests share: a closed network, an own cache, and a tiny model with tiny clients.

Fixtures of session scope are immutable: a test that needs another model loads its own with `load_tiny`.
"""

from __future__ import annotations

import os

from sweeps import OWN

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything imports matplotlib: a notebook's backend, which its processes inherit, may not be installed here.
os.environ["MPLBACKEND"] = "agg"

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from base_homes import base_home, copied_bases, gguf_weights  # noqa: F401
from needs import _only_what_it_needs, pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401
from real_base import real_base, real_cache  # noqa: F401
from tiny import ALL_LINEAR, widen_norms

from fedllm_bench.common import files
from fedllm_bench.config import base_model, presets
from fedllm_bench.config.run import Lora, Model, RunConfig
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.pairs import tokenise_pairs
from fedllm_bench.data.tokens import tokenise_split
from fedllm_bench.metrics.items import HeldoutItem, heldout_items
from fedllm_bench.mini.dataset import BUILDERS, build_mini_aya
from fedllm_bench.mini.users import Population
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training.model.lora_model import LoraModel, load_model

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other, and 15 times longer than the work takes

SMALL_RUN = (
    "federation.rounds=3",
    "federation.clients_per_round=3",
    "local.steps=2",
    "local.micro_batch=4",
    "local.accumulation=1",
    "local.lr=6e-3",
    "local.lr_end=6e-4",
    "lora.rank=4",
    "lora.alpha=8",
)
LoadTiny = Callable[..., LoraModel]
RunConfigOf = Callable[..., RunConfig]


def _is_near(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in (None, "", "localhost", "::1", "0.0.0.0") or str(text).startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def _listening_to_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _closed_network() -> Iterator[None]:
    """A connection or a name look-up beyond this machine raises; a fall-back to the network would hide a bug."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object) -> None:
        if not _is_near(host):
            raise PermissionError(f"tests may not reach {host!r}: the network is closed but for loopback")

    def near(real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return real(self, address)

        return guarded

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", near(connect))
        patch.setattr(socket.socket, "connect_ex", near(connect_ex))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or left in, the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _gradients_stay_on() -> Iterator[None]:
    """A context that is left open would turn them off for all that comes after: the test that leaves one fails."""
    yield
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("gradients are off after this test: a torch.no_grad() was not left, or not in its order")


@pytest.fixture(scope="session", autouse=True)
def _own_width() -> Iterator[None]:
    """Tables are as wide on any terminal, and on none, as in a worker of xdist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "110")
        yield


@pytest.fixture
def evaluation_sets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt stands in for the evaluation sets, which `data build` would fetch."""
    file = tmp_path_factory.mktemp("sets") / "question.jsonl"
    file.write_text('{"prompt": "a question of an evaluation set"}\n')
    monkeypatch.setattr("fedllm_bench.data.build.decontaminate.fetch", lambda name: file)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 120,000 weights with the tokenizer of the embedded base, as `from_pretrained` reads it."""
    return _save_llama(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


@pytest.fixture(scope="session")
def packable_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with rows of 64 weights, which a 4-bit base on a CPU needs."""
    return _save_llama(tmp_path_factory.mktemp("models") / "packable", hidden=64)


def _save_llama(folder: Path, hidden: int) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.15,  # the default of 0.02 gives almost equal logits, in which errors would hide
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Path) -> LoadTiny:
    """Another copy of the tiny model: load_tiny(dropout=0.2, dtype="float64", rank=8, targets=("q_proj",))."""

    def load(
        dropout: float = 0.0, dtype: str = "float32", rank: int = 4, targets: tuple[str, ...] = ALL_LINEAR
    ) -> LoraModel:
        named = Model(name=str(tiny_folder), dtype=dtype)  # type: ignore[arg-type]
        model = load_model(named, Lora(rank=rank, alpha=2 * rank, dropout=dropout, targets=targets))
        if dtype == "float64":
            widen_norms(model.base)
        return model

    return load


@pytest.fixture(scope="session")
def tiny_model(load_tiny: LoadTiny) -> LoraModel:
    """float32, LoRA of rank 4 and alpha 8 on all linear layers, no dropout."""
    return load_tiny()


@pytest.fixture(scope="session")
def double_model(load_tiny: LoadTiny) -> LoraModel:
    """The same in float64 throughout, for what must agree to the last digits."""
    return load_tiny(dtype="float64")


@pytest.fixture(scope="session")
def dropping(load_tiny: LoadTiny) -> LoraModel:
    """The same with dropout, whose masks must follow from (seed, round, client, step)."""
    return load_tiny(dropout=0.1)


@pytest.fixture(scope="session")
def tiny_split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six clients of the mini world and four users below the cut."""
    population = Population(seed=3, num_users=6, num_below_cut=4, num_names=8)
    return build_mini_aya(population, tmp_path_factory.mktemp("splits") / "tiny")


@pytest.fixture(scope="session")
def tiny_clients(tiny_split: Split, tiny_model: LoraModel) -> Clients:
    tokens = tokenise_split(tiny_split, tiny_model.tokenizer, template_text("mini"), 256, files.cache_root())
    return Clients(tiny_split, tokens)


@pytest.fixture(scope="session")
def pair_split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six clients of the mini world who vote, and four users below the cut."""
    population = Population(seed=3, num_users=6, num_below_cut=4, num_names=8)
    return BUILDERS["chatbot_pa"](population, tmp_path_factory.mktemp("splits") / "pairs")


@pytest.fixture(scope="session")
def pair_clients(pair_split: Split, tiny_model: LoraModel) -> Clients:
    """With the reference's log-probabilities, of the tiny model in float32."""
    cache = files.cache_root()
    parts = tokenise_pairs(pair_split, tiny_model.tokenizer, template_text("mini"), 256, cache)
    return Clients(pair_split, with_reference(parts, tiny_model, base_hash="tiny", batch_tokens=2048, cache=cache))


@pytest.fixture(scope="session")
def items(tiny_clients: Clients) -> list[HeldoutItem]:
    """All held-out rows of the tiny split."""
    return heldout_items(tiny_clients)


@pytest.fixture(scope="session")
def tiny_run_config(tiny_folder: Path) -> RunConfigOf:
    """tiny_run_config("fedprox", "method.mu=1", seed=2): profile mini, cut down to 3 rounds of 3 clients.

    `dataset` is "aya" where not given.
    """

    def load(method: str = "fedavg", *overrides: str, **options: Any) -> RunConfig:
        options = {"model": str(tiny_folder), **options}
        settings = [*SMALL_RUN, *OWN.get(method, ()), *overrides]
        return presets.load(options.pop("dataset", "aya"), method, "mini", settings, **options)

    return load


@pytest.fixture(scope="session")
def honest(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of one tiny run with answers and judgements: to be copied, never to be changed."""
    import submissions

    return submissions.honest(tiny_split, tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="session")
def three_seeds(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of the same cell under three seeds, without answers; its runs lie in ../../runs."""
    import submissions

    return submissions.honest(tiny_split, tmp_path_factory.mktemp("three"), seeds=submissions.SEEDS, answers=False)
