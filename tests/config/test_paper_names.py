"""What a paper names is found here under the name of its setting."""

from __future__ import annotations

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.presets import load


def refused(method: str, *settings: str) -> str:
    with pytest.raises(UserError) as caught:
        load("aya", method, "mini", settings)
    return str(caught.value)


PAPERS = {  # what is a setting here, by its paper's name
    "FFA-LoRA": "communication.lora_aggregation=frozen_a",
    "FedSA-LoRA": "communication.lora_aggregation=share_a",
    "RoLoRA": "communication.lora_aggregation=alternate",
    "FlexLoRA": "communication.lora_aggregation=flex",
    "FLoRA": "communication.lora_aggregation=stack",
    "FedEx-LoRA": "communication.lora_aggregation=exact",
    "LoRA-FAIR": "communication.lora_aggregation=fair",
    "FRLoRA": "communication.lora_aggregation=restart",
    "median": "aggregation.rule=median",
    "trimmed-mean": "aggregation.rule=trimmed_mean",
    "Krum": "aggregation.rule=krum",
    "multi-Krum": "aggregation.rule=multi_krum",
    "Bulyan": "aggregation.rule=bulyan",
    "KTO": "local.loss=kto",
    "SimPO": "local.dpo_loss=simpo",
    "ORPO": "local.dpo_loss=orpo",
    "secure aggregation": "communication.secure_sum=true",
    "SecAgg": "communication.secure_sum=true",
    "DoRA": "lora.dora=true",
    "QLoRA": "model.quantization=4bit",
}
METHODS = {  # what is a method with other constants here
    "FedPer": "fedrep --set method.order=together",
    "FedBN": "fedrep --set method.order=together --set method.local_parts=norm --set model.trainable=full",
    "FedKSeed-Pro": "fedkseed --set method.pro=true",
}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_rule_asked_for_by_its_papers_name_is_found(paper: str) -> None:
    given = PAPERS[paper]
    dataset = "chatbot_pa" if given.startswith("local.") else "aya"
    where = "a data set of preferences, as chatbot_pa, and " if dataset == "chatbot_pa" else ""
    assert refused(paper).endswith(f"take {where}fedavg --set {given}")
    assert load(dataset, "fedavg", "mini", [given]).method.name == "fedavg"  # such a setting exists


@pytest.mark.parametrize("paper", METHODS)
def test_a_method_with_other_constants_is_found_by_its_papers_name(paper: str) -> None:
    given = METHODS[paper]
    assert refused(paper).endswith(f"take {given}")
    method, *settings = given.split(" --set ")
    assert load("aya", method, "mini", settings).method.name == method  # such a command exists


@pytest.mark.parametrize("given", ["backdoor", "model replacement", "sign flipping"])
def test_an_attack_by_its_papers_name_is_answered_by_its_kind(given: str) -> None:
    assert "; did you mean attack.kind=" in refused("fedavg", f"attack.kind={given}", "attack.clients=0.2")


@pytest.mark.parametrize(
    ("paper", "variant"), [("FedOT", "fedot"), ("offsite-tuning", "fedot"), ("FedBiOT", "fedbiot")]
)
def test_offsite_tuning_by_name_is_answered_with_the_layers_that_it_needs(paper: str, variant: str) -> None:
    assert refused(paper).endswith(f"take fedavg --set offsite.variant={variant} --set offsite.right=2")
    settings = [f"offsite.variant={variant}", "offsite.right=2"]
    assert load("aya", "fedavg", "mini", settings).offsite.variant == variant


def test_a_short_name_is_not_of_offsite_tuning() -> None:
    assert "did you mean 'local.lr'?" in refused("fedavg", "lr=0.1")
    assert "did you mean 'local.optimizer'?" in refused("fedavg", "optimizer=sgd")


@pytest.mark.parametrize("given", ["FLoRA", "flora"])
def test_a_papers_name_as_a_rule_is_answered_by_the_rules_name(given: str) -> None:
    text = refused("fedavg", f"communication.lora_aggregation={given}")
    assert text.endswith("; did you mean communication.lora_aggregation=stack?")
