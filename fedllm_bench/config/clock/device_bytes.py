"""The bytes of a file of devices, which is a regular file and not endless."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common.errors import UserError, escaped

MOST_BYTES = 100_000_000  # a million devices with long names
LONGEST_NAME = 300  # letters of a file's name in a message


def device_bytes(devices: str, place: Path) -> bytes:
    """Those of the file at `place`, which `clock.devices` names as `devices`.

    Raises a :class:`UserError` of one line for what is no file, cannot be read, or is too large; a pipe or a device is
    not opened, since it may never end.
    """
    try:
        if place.exists() and not place.is_file():
            raise fault(devices, "it is a folder or a device, and no file; give a CSV or TOML file of devices")
        if (size := place.stat().st_size) > MOST_BYTES:
            raise fault(devices, f"{size:,} bytes are too many, at most {MOST_BYTES:,} are read; give fewer devices")
        return place.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        if isinstance(error, UserError):
            raise
        what = getattr(error, "strerror", None) or str(error)
        raise fault(
            devices, f"it cannot be read ({what}); give a CSV or TOML file of devices (docs/clock.md), or drawn"
        ) from error


def fault(devices: str, what: str) -> UserError:
    """What is wrong with the file that `clock.devices` names."""
    return UserError(f"clock.devices={escaped(devices[:LONGEST_NAME])}: {what}")
