"""Sweeps over all methods: `make test` takes the cases that differ in kind, `make test-slow` takes all others.

On resume, on grouping and on engines a method can fail in few ways: it keeps nothing (fedavg), it keeps something at
the server (fedadam), with each client and in a second upload (scaffold), or everything with the client (local); it
draws noise (dp_fedavg); it pools all rows (central); it trains in two phases, and clients have their own (ditto).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

UNLIKE = ("fedavg", "fedadam", "scaffold", "local", "dp_fedavg", "central", "ditto")  # one method of each kind
# The engines that train the model they are given, in this process. Workers of Ray load the base of the config, and are
# held to the bits of the first one by tests of their own (tests/training/cluster/).
HERE = ("inprocess", "trl")
# Methods whose steps have no backward pass, and those that train several adapters at once, of
# completions alone: TRL can train neither.
FORWARD_ONLY = ("fedmezo", "fedkseed")
MIXING = ("fedem",)
NOT_BY_TRL = (*FORWARD_ONLY, *MIXING)
# Settings that a method cannot be without. The noise is given: to find it takes the number of clients, and seconds.
OWN = {"dp_fedavg": ("privacy.clip=1.0", "privacy.epsilon=none", "privacy.noise_multiplier=1e-2")}

PLAIN_LORA = {"hetlora"}  # defined for the norm of B A: neither DoRA nor full fine-tuning


def sweep(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """All cases as parameters of a test; those that are not quick are slow. Raises ValueError where one is unknown."""
    every = list(cases)
    if unknown := [case for case in quick if case not in every]:
        raise ValueError(f"no case {unknown}; there are {every}")
    return [case if case in quick else slow(case) for case in every]


def slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
