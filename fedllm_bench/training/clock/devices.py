"""The devices of all clients: how fast they are, and when they can be asked. A function of (seed, client)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.config.clock.section import DRAWN, VirtualClock
from fedllm_bench.training.clock.device_file import DeviceRow, by_client, read_devices

CLOCK, KINDS, HOURS, DEAL = 70, 0, 1, 2  # purpose of the random streams, and its parts; that of masks is 61
MB = 1_000_000  # bytes, as networks count them
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Devices:
    """One number of each of N clients: shape (N,)."""

    speed: Floats  # seconds for a forward pass of one row
    bandwidth: Floats  # bytes a second
    availability: Floats  # share of each period in which the device can be asked
    phase: Floats  # seconds by which its period has begun at the start
    period: float

    @cached_property
    def are_always_there(self) -> bool:
        return bool((self.availability == 1.0).all())

    def there(self, now: float) -> Flags:
        """Which devices can be asked at a moment; shape (N,)."""
        if self.are_always_there:
            return np.ones(len(self.availability), dtype=np.bool_)
        return (now + self.phase) % self.period < self.availability * self.period

    def next_there(self, now: float, clients: NDArray[np.int64]) -> float:
        """The next moment at which one of these `clients`, none of whom is there now, can be asked.

        It lies a millionth of a period behind the exact one, so that rounding cannot leave it before it.
        """
        left = self.period - (now + self.phase[clients]) % self.period
        return float(np.nextafter(now + left.min() + 1e-6 * self.period, np.inf))


def devices_of(clock: VirtualClock, seed: int, ids: Sequence[str]) -> Devices:
    """The devices of the clients `ids`; more clients leave the drawn ones of the others as they are.

    Raises a :class:`UserError` for a file that has no device for each of them.
    """
    count = len(ids)
    phase = clock.period * np.random.default_rng([CLOCK, seed, HOURS]).random(count)
    if clock.devices != DRAWN:
        return _from_file(clock, seed, ids, phase)
    drawn_N2 = np.random.default_rng([CLOCK, seed, KINDS]).standard_normal((count, 2))
    speed = clock.speed * np.exp(clock.speed_spread * drawn_N2[:, 0])
    bandwidth = MB * clock.bandwidth * np.exp(clock.bandwidth_spread * drawn_N2[:, 1])
    return Devices(speed, bandwidth, np.full(count, clock.availability), phase, clock.period)


def _from_file(clock: VirtualClock, seed: int, ids: Sequence[str], phase: Floats) -> Devices:
    rows = read_devices(clock)
    own = by_client(clock, rows, ids)
    if own is None:
        dealt = np.random.default_rng([CLOCK, seed, DEAL]).integers(len(rows), size=len(ids))
        own = [rows[place] for place in dealt.tolist()]
    there = [clock.availability if row.availability is None else row.availability for row in own]
    return Devices(_column(own, "speed"), MB * _column(own, "bandwidth"), np.array(there), phase, clock.period)


def _column(rows: Sequence[DeviceRow], name: str) -> Floats:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)
