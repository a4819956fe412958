"""Presets of other suites' training sets: the published values, and what a preset takes from the one it is like."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.presets import explain, load, method_names, training_sets
from fedllm_bench.config.run import Profile


def published(dataset: str, method: str = "fedavg", **options: Any) -> tuple[Any, ...]:
    """The values that its authors published, in one order for all."""
    config = load(dataset, method, "paper", **options)
    federation, local, lora, model = config.federation, config.local, config.lora, config.model
    return (
        (config.data.clients, federation.clients_per_round, federation.rounds),
        (local.steps, local.micro_batch, local.accumulation, local.sequence_length),
        (local.optimizer, local.lr, local.lr_end, local.clip),
        (lora.rank, lora.alpha, lora.dropout),
        (model.name, model.quantization, config.data.template),
        config.communication.budget_mb,
    )


LLAMA, MISTRAL = "meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.3"
SFT = ((10, 16, 1, 512), ("adamw", 5e-5, 1e-6, 1.0))
OF_SCRIPT = ((20, 2, 200), *SFT, (32, 64, 0.05), (LLAMA, "8bit", "alpaca"), None)
OF_PAIRS = (
    *((5, 2, 200), (10, 16, 1, 512), ("adamw", 5e-4, 1e-5, 1.0), (8, 16, 0.05)),
    *(("ehartford/Wizard-Vicuna-7B-Uncensored", "8bit", "vicuna_v1.1"), None),
)
PUBLISHED = {
    **dict.fromkeys(("alpaca", "alpaca_gpt4", "fingpt", "medalpaca", "code_alpaca", "math_instruct"), OF_SCRIPT),
    **dict.fromkeys(("hh_rlhf", "ultrafeedback"), OF_PAIRS),
    **{
        f"flowertune_{name}": ((*clients, 200), *SFT, (32, 64, 0.075), (MISTRAL, "4bit", "alpaca"), 200_000.0)
        for name, clients in {"general": (20, 2), "finance": (50, 5), "medical": (20, 2), "code": (10, 2)}.items()
    },
    **{
        name: (
            *((clients, clients, 500), (30, 1, 1, tokens), ("sgd", lr, lr, 1e9), lora),
            *(("huggyllama/llama-7b", "none", "alpaca_input"), None),
        )
        for name, clients, tokens, lr, lora in (
            ("fed_alpaca", 3, 1000, 3e-4, (8, 16, 0.05)),
            ("fed_gsm8k", 3, 1000, 5e-3, (8, 16, 0.05)),
            ("fed_dolly", 8, 650, 5e-3, (8, 64, 0.1)),
            ("fed_code_alpaca", 9, 650, 1e-4, (8, 32, 0.0)),
        )
    },
}
OTHERS = [name for names in training_sets().values() for name in names]


@pytest.mark.parametrize("dataset", OTHERS)
def test_training_sets_of_other_suites_are_as_published(dataset: str) -> None:
    assert set(OTHERS) == PUBLISHED.keys()
    assert published(dataset) == PUBLISHED[dataset]
    federation = load(dataset, "fedavg", "paper").federation
    assert federation.weighting == ("uniform" if dataset in training_sets()["fs_llm"] else "examples")


@pytest.mark.parametrize("profile", get_args(Profile))
def test_every_training_set_has_settings_under_every_profile(profile: str) -> None:
    configs = [load(dataset, method, profile) for dataset in OTHERS for method in method_names()]
    assert len({config.hash for config in configs}) == 16 * len(method_names())
    for config in configs:
        config.federation.check(config.data.clients or 0)
        assert profile == "paper" or config.model.quantization == "none"
        metric = "heldout" if config.data.task == "sft" else "preference_loss"
        assert metric in config.evaluation.metrics


def test_methods_have_the_constants_that_a_suite_published() -> None:
    for dataset in training_sets()["openfedllm"]:
        assert load(dataset, "fedavgm", "paper").method.constants == {"beta": 0.9, "eta": 0.1}
        for method in ("fedyogi", "fedadam"):
            for variant in ("paper", "released"):
                assert load(dataset, method, "paper", variant=variant).method.constants["beta1"] == 0.9
        assert load(dataset, "fedavgm", "paper", variant="released").method.constants == {"beta1": 0.9}
        assert load(dataset, "fedavgm", "mini").method.constants == load("aya", "fedavgm", "mini").method.constants
    assert explain("fingpt", "fedyogi", "paper")["method.beta1"] == "datasets/alpaca_gpt4.toml"
    assert explain("fingpt", "fedyogi", "paper")["local.lr"] == "datasets/alpaca_gpt4.toml"
    assert explain("fingpt", "fedyogi", "paper")["data.upstream"] == "datasets/fingpt.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('like = "nothing"', "no dataset 'nothing'"),
        ('like = "fingpt"', "leads back to itself"),
        ("[methods.fedyogy]\nbeta1 = 1.0", "no method 'fedyogy'"),
    ],
)
def test_a_preset_that_is_like_nothing_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    root = tmp_path / "benchmarks"
    shutil.copytree(Path(str(files("fedllm_bench.benchmarks"))), root)
    (root / "datasets" / "fingpt.toml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load("fingpt", "fedyogi", "paper", root=root)
    assert "\n" not in str(caught.value)
