"""A file of devices, in CSV with a header or in TOML with a table [[device]] for each.

speed         seconds for a forward pass of one row
bandwidth     MB (of 1,000,000 bytes) a second, down and up alike
availability  may lack: the share of each period in which the device can be asked
client        may lack: the id of the client that has this device; without it, devices are dealt by the seed
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, first_line, shown
from fedllm_bench.common.text import counted
from fedllm_bench.config.clock.device_bytes import device_bytes, fault
from fedllm_bench.config.clock.section import VirtualClock

NUMBERS = ("speed", "bandwidth", "availability")
COLUMNS = (*NUMBERS, "client")
MOST = 1e9
FEW = 3


@dataclass(frozen=True)
class DeviceRow:
    """One device of a file; `availability` is None where the file does not say it."""

    client: str | None
    speed: float
    bandwidth: float
    availability: float | None


def read_devices(clock: VirtualClock) -> list[DeviceRow]:
    """The devices of the file that `clock` names.

    Raises a :class:`UserError` of one line for a file that is none, or was changed since the run's settings were made.
    """
    path = Path(clock.devices)
    found = device_bytes(clock.devices, path)
    if clock.devices_sha256 not in ("", hashlib.sha256(found).hexdigest()):
        raise _fault(clock, "it was changed while this run was started; give the command again")
    try:
        content = found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(clock, "its text is not UTF-8; save it as UTF-8") from error
    rows = _tables(clock, content) if path.suffix.lower() == ".toml" else _lines(clock, content)
    if not rows:
        raise _fault(clock, "there is no device in it")
    devices = [_device(clock, number, row) for number, row in enumerate(rows, start=1)]
    _check_alike(clock, devices)
    return devices


def by_client(clock: VirtualClock, devices: Sequence[DeviceRow], ids: Sequence[str]) -> list[DeviceRow] | None:
    """The device of each client of `ids`; None where the file names no clients.

    Raises a :class:`UserError` where a client has none.
    """
    if devices[0].client is None:
        return None
    known = {device.client: device for device in devices}
    missing = [client for client in ids if client not in known]
    if missing:
        few = ", ".join(map(shown, missing[:FEW])) + (" and others" if len(missing) > FEW else "")
        raise _fault(
            clock, f"{counted(len(missing), 'client')} of the split have no device in it ({few}); add them, or leave "
            "the column client out, so that devices are dealt by the seed"
        )  # fmt: skip
    return [known[client] for client in ids]


def _fault(clock: VirtualClock, what: str) -> UserError:
    return fault(clock.devices, what)


def _lines(clock: VirtualClock, content: str) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(content), strict=True)
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise _fault(clock, f"it is not CSV ({first_line(error)})") from error
    header = [name.strip() for name in lines[0]] if lines else []
    _check_columns(clock, header)
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise _fault(clock, f"device {number} has {counted(len(line), 'value')}, the header {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _tables(clock: VirtualClock, content: str) -> list[dict[str, Any]]:
    try:
        tables = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # an int of more digits than Python reads is a ValueError
        raise _fault(clock, f"it is not TOML ({first_line(error)})") from error
    rows = tables.get("device")
    if set(tables) != {"device"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _fault(clock, "it has something else than tables [[device]]")
    for row in rows:
        _check_columns(clock, list(row))
    return rows


def _check_columns(clock: VirtualClock, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise _fault(clock, f"it has the column {shown(twice[0])} twice")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise _fault(clock, f"unknown column {shown(unknown[0])}; there are {', '.join(COLUMNS)}")
    lacking = [name for name in ("speed", "bandwidth") if name not in names]
    if lacking:
        raise _fault(clock, f"it has no column {lacking[0]}; it needs speed and bandwidth")


def _device(clock: VirtualClock, number: int, row: dict[str, Any]) -> DeviceRow:
    values = {name: _number(clock, number, name, row[name]) for name in NUMBERS if name in row}
    client = row.get("client")
    if client is not None and (not isinstance(client, str) or not client):
        raise _fault(clock, f"device {number}: got the client {shown(client)}, it should be an id of the split")
    return DeviceRow(client, values["speed"], values["bandwidth"], values.get("availability"))


def _number(clock: VirtualClock, number: int, name: str, value: Any) -> float:
    least, most = (0.01, 1.0) if name == "availability" else (1 / MOST, MOST)
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not least <= found <= most:
        raise _fault(clock, f"device {number}: got the {name} {shown(value)}, it should be {least:g} to {most:g}")
    return found


def _check_alike(clock: VirtualClock, devices: Sequence[DeviceRow]) -> None:
    """Refuse what only some devices have, clients with two devices, and settings that the file takes the place of."""
    for key in ("client", "availability"):
        have = sum(getattr(device, key) is not None for device in devices)
        if have not in (0, len(devices)):
            raise _fault(clock, f"{have} of {counted(len(devices), 'device')} have a value for {key}; give all or none")
    named = [device.client for device in devices if device.client is not None]
    seen: set[str] = set()
    for client in named:
        if client in seen:
            raise _fault(clock, f"the client {shown(client)} has two devices")
        seen.add(client)
    if devices[0].availability is not None and clock.availability != 1.0:
        raise _fault(clock, f"it has a column availability, and clock.availability={clock.availability:g} too; leave "
                     "one of them out")  # fmt: skip
    if (
        all((device.availability or clock.availability) == 1.0 for device in devices)
        and clock.period != VirtualClock().period
    ):
        raise _fault(clock, f"all devices in it are always there, so that clock.period={clock.period:g} changes "
                     "nothing; leave it out")  # fmt: skip
