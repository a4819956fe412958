"""A key that does not exist, in one line: which one was meant, and which ones there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fedllm_bench.common.errors import shown


def unknown_option(key: str, known: Iterable[str], where: str = "") -> str:
    """One line for a key that does not exist: the nearest full key, and what there is in its section."""
    names = sorted(known)
    section = key.partition(".")[0]
    listed = [name for name in names if name.startswith(f"{section}.")]
    listed = listed or sorted({name.partition(".")[0] + ".*" for name in names})
    near = _nearest(key, names)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"no option {shown(key)}{where}{hint} There are: {', '.join(listed)}"


def _nearest(key: str, names: list[str]) -> str | None:
    """The key with the same last part ("lr" is "local.lr"), else the one that is spelt most alike."""
    last_parts = {name.rpartition(".")[2]: name for name in names}
    last = key.rpartition(".")[2]
    if last in last_parts:
        return last_parts[last]
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.75):
        return near[0]
    near = difflib.get_close_matches(last, list(last_parts), n=1, cutoff=0.6)
    return last_parts[near[0]] if near else None
