"""How long a client is at work: a function of its rows, its planned steps, its bytes and its device, never of values.

The model of FedScale (Lai et al., 2022, arXiv:2105.11367, section 4), with the bytes of each way by themselves:

    seconds = passes * rows * speed + (bytes down + bytes up) / bandwidth

`rows` are those of all local steps that are taken, each as often as it is taken. A backward pass takes as long as two
forward ones, so `passes` is 3; a method that takes its steps by two forward passes has 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.clock.devices import Devices, Floats
from fedllm_bench.training.faults import steps_done

WITH_BACKWARD, FORWARD_ONLY = 3, 2


@dataclass(frozen=True)
class Trip:
    """What a client is asked for: seconds until its answer is there, and bytes of both ways."""

    seconds: float
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Work:
    """`sizes` are the training rows of each client."""

    config: RunConfig
    method: FedAvg
    sizes: Sequence[int]
    devices: Devices
    traffic: Traffic

    def trip(self, version: int, client: int) -> Trip:
        """That of a client who begins from the server's model after `version` aggregations."""
        down, up = self.traffic.of_client(version, client)
        passes = FORWARD_ONLY if self.method.changes("probe") else WITH_BACKWARD
        training = passes * self.rows(version, client) * float(self.devices.speed[client])
        return Trip(training + (down + up) / float(self.devices.bandwidth[client]), down, up)

    def rows(self, version: int, client: int) -> int:
        """The rows of all local steps that the client takes."""
        local = self.config.local
        if not self.sizes[client]:
            return 0
        planned = local.num_steps(self.sizes[client], expected_turns(self.config, len(self.sizes)))
        done = len(steps_done(self.config.faults, self.config.seed, version, client, ((),) * planned))
        taken = sum(len(phase.steps) for phase in self.method.phases(done))
        return taken * local.accumulation * local.micro_batch

    def pace(self) -> Floats:
        """Seconds of an ordinary trip of each client, shape (N,): by what samplers tell devices apart."""
        local, turns = self.config.local, expected_turns(self.config, len(self.sizes))
        steps = {size: local.num_steps(size, turns) if size else 0 for size in set(self.sizes)}
        rows_N = np.array([steps[size] for size in self.sizes]) * local.accumulation * local.micro_batch
        return WITH_BACKWARD * rows_N * self.devices.speed + sum(self.traffic.of_client(0, 0)) / self.devices.bandwidth

    def after(self, version: int, answered: Sequence[int]) -> Work:
        """The work from the next model on: some methods send more from round to round."""
        return replace(self, traffic=self.traffic.after(version, answered))


def expected_turns(config: RunConfig, num_clients: int) -> float:
    """How often a client can expect to be counted: R S / N, with S the uploads of an aggregation."""
    federation = config.federation
    return federation.rounds * config.clock.waits_for(federation.clients_per_round) / num_clients
