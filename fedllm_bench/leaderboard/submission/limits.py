"""How large a submission may be. A mini one has about 160 kB a run; one of a real data set some 20 MB."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """Counts and bytes; `unpacked` is after gzip, `stored` before."""

    files: int = 2000
    folders: int = 1000
    file_stored: int = 64 * MIB
    file_unpacked: int = 256 * MIB
    all_stored: int = 512 * MIB
    all_unpacked: int = 2048 * MIB
    json: int = 16 * MIB  # a .json file, which is read as one value
    line: int = 2 * MIB  # of a .jsonl file
    file_lines: int = 500_000
    all_lines: int = 5_000_000


LIMITS = SizeLimits()
