"""The section of a config on the virtual clock (docs/clock.md). Off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from fedllm_bench.config.config_uploads import Strict

Sampler = Literal["uniform", "group", "responsiveness"]
Spread = Annotated[float, Field(ge=0, le=5)]  # more is beyond a factor of e^15 between devices
Seconds = Annotated[float, Field(gt=0, le=1e9)]
Number = Annotated[int, Field(ge=0, lt=2**31)]

DRAWN = "drawn"
# Which modes a setting is of; one that is not here is of all. A setting that a mode does not read is refused.
OF_MODES: Mapping[str, tuple[str, ...]] = {
    "over_selection": ("sync",),
    "goal": ("async",),
    "time_budget": ("semi",),
    "staleness_limit": ("semi", "async"),
    "staleness_discount": ("semi", "async"),
    "published": ("semi", "async"),
}
OF_DRAWN = ("speed", "speed_spread", "bandwidth", "bandwidth_spread")  # a file of devices says them itself
NEEDED = {"async": ("goal", "10"), "semi": ("time_budget", "60")}


@dataclass(frozen=True, kw_only=True)
class VirtualClock(Strict):
    """A virtual clock: which device takes how long, and when the server goes on (docs/clock.md).

    `speed`: seconds that the median device takes for a forward pass of one row; `bandwidth`: its MB (of 1,000,000
    bytes) a second. Devices are drawn from log-normal distributions, whose logarithms have the `_spread` as standard
    deviation; or `devices` is a CSV or TOML file of them, whose sha256 the suite writes beside it. `availability`: the
    share of each `period` (seconds) in which a device can be asked.

    `over_selection` asks so many more clients than are waited for, as a share. `goal`: uploads that the server waits
    for. `time_budget`: seconds after which it waits no longer. An upload whose staleness tau is above
    `staleness_limit` is dropped; others weigh (1 + tau)^-`staleness_discount`. `published` divides by the sum of the
    weights without the discount.
    """

    mode: Literal["off", "sync", "semi", "async"] = "off"
    devices: Annotated[str, Field(min_length=1)] = DRAWN
    devices_sha256: str = ""
    speed: Seconds = 0.1
    speed_spread: Spread = 1.0
    bandwidth: Annotated[float, Field(ge=1e-6, le=1e9)] = 1.0
    bandwidth_spread: Spread = 1.0
    availability: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    period: Annotated[float, Field(ge=60, le=1e9)] = 86400.0
    over_selection: Annotated[float, Field(ge=0, le=100)] = 0.0
    goal: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    time_budget: Seconds | None = None
    staleness_limit: Number | None = None
    staleness_discount: Annotated[float, Field(ge=0, le=100)] = 0.5
    published: bool = False

    @property
    def is_on(self) -> bool:
        return self.mode != "off"

    @property
    def lets_pass(self) -> bool:
        """Whether an upload may be counted that began from an older model than the last."""
        return self.mode in OF_MODES["staleness_discount"]

    def waits_for(self, per_round: int) -> int:
        """How many uploads an aggregation has where nobody is lost, of `per_round` clients at work."""
        return self.goal or per_round


def check_clock(clock: VirtualClock, sampler: Sampler, per_round: int) -> None:
    """Raise a :class:`ValueError` of one line for settings that contradict each other or would change nothing.

    `per_round` is federation.clients_per_round.
    """
    given = {field.name: getattr(clock, field.name) for field in fields(clock)}
    given = {key: value for key, value in given.items() if value != getattr(VirtualClock(), key) and key != "mode"}
    if not clock.is_on:
        _check_off(given, sampler)
        return
    for key, value in given.items():
        if clock.mode not in (modes := OF_MODES.get(key, (clock.mode,))):
            raise ValueError(
                f"clock.{key}={_shown(value)}: it is of clock.mode={' or '.join(modes)}, and the mode is "
                f"{clock.mode}; leave it out"
            )
    _check_devices(clock, given, sampler)
    if clock.mode in NEEDED and given.get(NEEDED[clock.mode][0]) is None:
        key, example = NEEDED[clock.mode]
        raise ValueError(
            f"clock.mode={clock.mode}: it needs clock.{key}; give, for example, --set clock.{key}={example}"
        )
    if clock.goal is not None and clock.goal > per_round:
        raise ValueError(
            f"clock.goal={clock.goal}: only federation.clients_per_round={per_round} clients are at work at a time, so "
            f"that as many uploads never wait; give {per_round} or less"
        )
    if clock.published and clock.staleness_discount == 0:
        raise ValueError("clock.published=true: without a discount both ways of weighing are equal; leave it out")


def _check_off(given: Mapping[str, Any], sampler: Sampler) -> None:
    if given:
        key, value = next(iter(given.items()))
        raise ValueError(
            f"clock.{key}={_shown(value)}: there is no clock; give --set clock.mode=sync (or semi, async), or leave it "
            "out"
        )
    if sampler != "uniform":
        raise ValueError(
            f"federation.sampler={sampler}: it chooses by the time that devices take, and there is no clock; give "
            "--set clock.mode=sync (or semi, async), or leave it out"
        )


def _check_devices(clock: VirtualClock, given: Mapping[str, Any], sampler: Sampler) -> None:
    """Refuse what is of the other kind of devices, and what no device reads."""
    if clock.devices != DRAWN:
        for key in OF_DRAWN:
            if key in given:
                raise ValueError(
                    f"clock.{key}={_shown(given[key])}: the file of clock.devices says it of each device; leave it out"
                )
    elif clock.availability == 1 and "period" in given:
        raise ValueError(
            f"clock.period={clock.period:g}: devices that are always there have none; give clock.availability too, or "
            "leave it out"
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
