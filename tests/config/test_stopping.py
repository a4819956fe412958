"""federation.patience and its settings: what is refused, and what a run without it is called."""

from __future__ import annotations

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets

PATIENT = "federation.patience=3"
REFUSED = {
    ("fedavg", "federation.check_every=2"): "check_every=2: it belongs to federation.patience, which is 0",
    ("fedavg", "federation.validation=0.2"): "validation=0.2: it belongs to federation.patience, which is 0",
    ("fedavg", PATIENT, "privacy.clip=1.0", "privacy.epsilon=8"): "each check reads validation rows of all clients",
    ("dp_fedavg", PATIENT): "the privacy.* guarantee does not count that",
    ("fedavg", PATIENT, "federation.validation=0.6"): "federation.validation",
    ("fedavg", PATIENT, "federation.validation=0.0"): "federation.validation",
    ("fedavg", "federation.patience=-1"): "federation.patience",
    ("fedavg", PATIENT, "federation.check_every=0"): "federation.check_every",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    with pytest.raises(UserError) as found:
        presets.load("aya", case[0], "mini", case[1:])
    assert REFUSED[case] in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_the_published_variant_has_no_early_stop():
    with pytest.raises(UserError, match="variant=released is as published, without an early stop"):
        presets.load("aya", "fedavg", "mini", [PATIENT], variant="released")


def test_a_run_without_patience_is_called_as_before():
    plain = presets.load("aya", "fedavg", "mini")
    assert plain.to_dict()["federation"].keys().isdisjoint({"patience", "check_every", "validation"})
    assert presets.load("aya", "fedavg", "mini", ["federation.patience=0"]).hash == plain.hash
    patient = [presets.load("aya", "fedavg", "mini", [PATIENT, *more]) for more in ([], ["federation.check_every=2"])]
    assert len({plain.hash, *(config.hash for config in patient)}) == 3
    assert plain.federation.kept_apart == 0.0
    assert patient[0].federation.kept_apart == 0.1
