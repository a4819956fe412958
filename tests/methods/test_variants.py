"""Variant "released": the published constants, weightings and client schedule, and nothing of the paper's presets."""

from __future__ import annotations

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.presets import explain, load
from fedllm_bench.methods import RELEASED
from fedllm_bench.training.batches import schedule

CONSTANTS = {
    "local": {},
    "fedavg": {},
    "fedprox": {"mu": 0.01},
    "scaffold": {},
    "fedavgm": {"beta1": 0.5},
    "fedadagrad": {"beta1": 0.0, "eta": 1e-3, "tau": 1e-3},
    "fedyogi": {"beta1": 0.5, "beta2": 0.99, "eta": 1e-3, "tau": 1e-3},
    "fedadam": {"beta1": 0.5, "beta2": 0.99, "eta": 1e-3, "tau": 1e-3},
}
UNIFORM = {"local", "fedadagrad", "fedyogi", "fedadam"}


def test_all_published_methods_are_here():
    assert CONSTANTS.keys() == RELEASED.keys()


@pytest.mark.parametrize("profile", ["mini", "paper"])
@pytest.mark.parametrize("name", RELEASED)
def test_constants_and_weighting_are_as_released_under_every_profile(name, profile):
    config = load("aya", name, profile, variant="released")
    assert dict(config.method.constants) == CONSTANTS[name]
    assert config.federation.weighting == ("uniform" if name in UNIFORM else "examples")
    assert config.variant == "released"
    assert config.hash != load("aya", name, profile).hash


def test_explain_names_the_file_of_the_variant():
    sources = explain("aya", "fedadam", "mini", variant="released")
    assert sources["method.eta"] == sources["federation.weighting"] == "variants/released.toml"
    assert sources["variant"] == "--variant"


def test_a_released_constant_can_be_set_and_one_of_the_paper_cannot():
    config = load("aya", "fedavgm", "mini", ["method.beta1=0.9"], variant="released")
    assert config.method.constants["beta1"] == 0.9
    with pytest.raises(UserError, match=r"no option 'method.eta'"):
        load("aya", "fedavgm", "mini", ["method.eta=0.9"], variant="released")


def test_an_unknown_variant_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no variant 'relased'.*released") as caught:
        load("aya", "fedavg", "mini", variant="relased")
    assert "\n" not in str(caught.value)


def test_the_schedule_is_the_published_one_whatever_the_seed():
    """Fed-Aya's first round, as the released code chose it."""
    plans = [schedule(load("aya", "fedavg", "paper", variant="released", seed=seed), 38) for seed in (0, 1)]
    assert plans[0] == plans[1]
    assert plans[0][0] == [2, 16, 24, 26]
    assert len(plans[0]) == 200
    paper = [schedule(load("aya", "fedavg", "paper", seed=seed), 38) for seed in (0, 1)]
    assert paper[0] != paper[1]


def test_on_fed_chatbot_pa_44_clients_are_never_chosen():
    plan = schedule(load("chatbot_pa", "fedavg", "paper", variant="released"), 747)
    assert 747 - len({client for chosen in plan for client in chosen}) == 44
