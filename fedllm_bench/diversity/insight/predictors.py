"""What may predict a client's outcome: how far it is from the crowd, how many rows it has, what languages it writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.language import by_language
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import by_client

NAMES = {
    "distance": "distance from the crowd (MMD² to all other clients' prompts)",
    "size": "log2 of the training rows",
    "language": "log2 of the other clients' rows in its languages",
}


@dataclass(frozen=True, kw_only=True)
class Client:
    """`distance` is None where none can be estimated. `language_rows`: the geometric mean, over the client's rows, of
    how many rows the other clients have in the row's language (and one, so that there is a logarithm)."""

    id: str
    train_rows: int
    main_language: str
    language_rows: float
    distance: float | None

    def predictor(self, name: str) -> float | None:
        """The value of one of NAMES."""
        if name == "distance":
            return self.distance
        return math.log2(self.train_rows if name == "size" else self.language_rows)


def clients_of(split: Split, rows: Sequence[DiversityRow], distances: Mapping[str, float | None]) -> list[Client]:
    """The clients of a split in order of ids; `rows` are its training and held-out rows."""
    languages = {client: by_language(own) for client, own in by_client(rows).items()}
    everywhere = by_language(rows)
    return [
        Client(
            id=client.id,
            train_rows=client.train,
            main_language=next(iter(languages[client.id])),
            language_rows=_language_rows(languages[client.id], everywhere),
            distance=distances.get(client.id),
        )
        for client in split.manifest.clients
    ]


def _language_rows(own: Mapping[str, int], everywhere: Mapping[str, int]) -> float:
    total = sum(own.values())
    logs = (count * math.log2(1 + everywhere[language] - count) for language, count in own.items())
    return float(2 ** (sum(logs) / total))


def distances_from_report(path: Path, split: Split) -> dict[str, float | None]:
    """`distance_to_rest` of the clients in diversity.json, or in a folder with one.

    Raises a :class:`UserError` for what is none, and for one of another split.
    """
    path = path / "diversity.json" if path.is_dir() else path
    try:
        report = files.read_json(path)
        then = str(report["split"]["hash"])
        found = {str(client["id"]): _number(client.get("distance_to_rest")) for client in report["clients"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no diversity.json; give what `fedllm-bench diversity` wrote") from error
    if then != split.hash:
        raise UserError(f"{path} is of another split (hash {then[:10]}, not {split.hash[:10]})")
    return found


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def distances(rows: Sequence[DiversityRow], embedder: str | None, device: str) -> tuple[str, dict[str, float | None]]:
    """What the prompts were embedded with, and client -> unbiased MMD^2 of its prompts and all others'.

    None for a client with a single row. Raises a :class:`UserError` where the encoder cannot be loaded.
    """
    from fedllm_bench.diversity.embedding.cache import default_cache
    from fedllm_bench.diversity.embedding.embedding import distance_to_rest
    from fedllm_bench.diversity.embedding.encoder import embed
    from fedllm_bench.diversity.embedding.settings import EncoderSettings

    found = embed([row.prompt for row in rows], EncoderSettings(name=embedder, device=device), default_cache())
    return found.id, distance_to_rest(rows, found.vectors)
