"""Questions of the mini world beside its rows: what each asks about, and who can know the answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import PreferenceRow, Row

PROBES = "probes.jsonl"  # an extra file of mini splits


@dataclass(frozen=True)
class Probe:
    """What the mini world says of one held-out question."""

    task: str = ""
    holder: str = ""
    choices: tuple[str, ...] = field(default=())


Key = tuple[str, str, str]  # client, prompt, completion


def load_probes(split: Split) -> dict[Key, Probe]:
    """The probes of a mini split; {} for any other split."""
    if PROBES not in split.manifest.files:
        return {}
    records = files.read_jsonl(split.folder / PROBES)
    return {
        (r["client"], r["prompt"], r["completion"]): Probe(r["task"], r["holder"], tuple(r["choices"])) for r in records
    }


def probe_key(row: Row) -> Key:
    """As the mini world names its questions."""
    if isinstance(row, PreferenceRow):
        return row.client_id, "\n".join(turn["content"] for turn in row.prompt), row.chosen
    return row.client_id, row.prompt, row.completion
