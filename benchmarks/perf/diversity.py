"""What embeddings of a split cost: time and memory by stage, and encoding against the plain way, side by side.

  arrival   batches of 32 in the order of the rows, each as `encode` of sentence-transformers takes it; nothing is kept
  sorted    all distinct texts sorted by length, batches of equal cost, an empty cache
  kept      the same again: all texts are in the cache

The three go over the same texts and are cut to the same length. Times are of the processor as well as of the clock,
because a machine may be shared. Rows are made: prompts of common words, lengths log-normal, sizes of clients too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedllm_bench.commands.terminal import say
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.own_memory import peak_bytes
from fedllm_bench.diversity.embedding.cache import ValueCache
from fedllm_bench.diversity.embedding.clustering import cluster
from fedllm_bench.diversity.embedding.encoder import embed, encoder_folder
from fedllm_bench.diversity.embedding.heterogeneity import heterogeneity, number
from fedllm_bench.diversity.embedding.kernels import (
    cosine_of_means,
    group_sums,
    kernel_features,
    median_distance,
    mmd2_of_pairs,
)
from fedllm_bench.diversity.embedding.maps import draw_map
from fedllm_bench.diversity.embedding.sentences import load
from fedllm_bench.diversity.embedding.settings import EncoderSettings
from fedllm_bench.diversity.rows import DiversityRow

EPILOG = """examples:
  python benchmarks/perf/diversity.py --embedder lsa                          # 50,000 rows, 747 clients
  python benchmarks/perf/diversity.py --embedder FOLDER --sample 2000         # and encoding side by side
  python benchmarks/perf/diversity.py --embedder FOLDER --rows 0 --sample 500 # only that
"""
BEGINNINGS = ("ask", "find", "help", "list", "make", "need", "plan", "read", "tell", "write")
WORDS = [beginning + end for beginning in BEGINNINGS for end in ("", "s", "ing", "er")]
MEDIAN_WORDS, SPREAD_OF_WORDS = 30, 1.0  # of a log-normal: a tenth of prompts is beyond 100 words, as of chats
BATCH = 32
LANGUAGES = 4
T = TypeVar("T")
Record = dict[str, Any]


def make_rows(count: int, num_clients: int, repeated: float, seed: int) -> list[DiversityRow]:
    """`repeated`: the share of rows whose prompt was asked before. Each client prefers words of its own."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0, 1, num_clients)
    clients = np.concatenate([np.arange(num_clients), rng.choice(num_clients, count, p=sizes / sizes.sum())])[:count]
    tastes = rng.dirichlet(np.ones(len(WORDS)) / 2, num_clients)
    prompts: list[str] = []
    for client in clients:
        if prompts and rng.random() < repeated:
            prompts.append(prompts[rng.integers(len(prompts))])
        else:
            length = int(np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD_OF_WORDS), 2, 1000))
            prompts.append(" ".join(rng.choice(WORDS, length, p=tastes[client])))
    one = DiversityRow(client="", row_id="", language="", source="made", prompt="", completion="")
    return [
        replace(one, client=f"c{client:03d}", row_id=str(i), language=f"l{client % LANGUAGES}", prompt=prompt)
        for i, (client, prompt) in enumerate(zip(clients.tolist(), prompts, strict=True))
    ]


def timed(records: list[Record], stage: str, work: Callable[[], T]) -> T:
    """What `work` returns; its seconds and the peak memory of the process so far are added to `records`."""
    start, cpu = time.monotonic(), time.process_time()
    found = work()
    records.append(
        {
            "stage": stage,
            "seconds": round(time.monotonic() - start, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_mb": peak_bytes() // 2**20,
        }
    )
    return found


def by_stage(rows: Sequence[DiversityRow], encoder: EncoderSettings, permutations: int) -> list[Record]:
    """One record for each stage of a report's embeddings, from empty caches."""
    records: list[Record] = []
    clients = number([row.client for row in rows])
    strata = number([(row.source, row.language) for row in rows])
    m = int(clients.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        texts = [row.prompt for row in rows]
        vectors = timed(records, "embed", lambda: embed(texts, encoder, ValueCache(Path(folder)))).vectors
        timed(records, "embed, kept", lambda: embed(texts, encoder, ValueCache(Path(folder))))
    bandwidth = timed(records, "bandwidth", lambda: median_distance(vectors, 0))
    features = timed(records, "features", lambda: kernel_features(vectors, bandwidth, seed=0))
    timed(records, "MMD of pairs", lambda: mmd2_of_pairs(group_sums(features, clients, m), np.bincount(clients)))
    likeness = timed(records, "cosines", lambda: cosine_of_means(vectors - vectors.mean(axis=0), clients, m))
    timed(records, "clusters", lambda: cluster(likeness))
    timed(records, "map", lambda: draw_map(vectors, clients, seed=0))
    for name, of in (("index in strata", strata), ("index over all", np.zeros_like(strata))):
        test = partial(heterogeneity, features, clients, of, permutations=permutations, seed=0)
        timed(records, name, test)
    return records


def side_by_side(texts: Sequence[str], encoder: EncoderSettings) -> list[Record]:
    """Three records; raises a :class:`UserError` for LSA, which has no batches."""
    folder = encoder_folder(encoder.name)
    if folder is None:
        raise UserError("LSA has no batches to compare; give --embedder the folder of a sentence encoder")
    records: list[Record] = []
    load(folder, encoder).encode(list(texts[:BATCH]), show_progress_bar=False)  # imports and first calls

    def arrival() -> np.ndarray:
        model = load(folder, encoder)  # the other way loads it too
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        return np.concatenate([model.encode(list(part), normalize_embeddings=True, batch_size=BATCH) for part in parts])

    plain = timed(records, "arrival", arrival)
    with tempfile.TemporaryDirectory() as kept:
        ours = timed(records, "sorted", lambda: embed(texts, encoder, ValueCache(Path(kept))))
        timed(records, "kept", lambda: embed(texts, encoder, ValueCache(Path(kept))))
    if np.abs(plain - ours.vectors).max() > 1e-4:
        raise RuntimeError("the two ways give different vectors")
    for record in records:
        record["times_faster"] = round(records[0]["cpu_seconds"] / max(record["cpu_seconds"], 1e-9), 2)
    return records


def show(title: str, records: Sequence[Record]) -> None:
    """A table on the terminal."""
    say(title)
    for record in records:
        say("  " + "  ".join(f"{name} {value}" for name, value in record.items()))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="0: only side by side")
    parser.add_argument("--clients", type=int, default=747)
    parser.add_argument("--repeated", type=float, default=0.2, help="share of rows with an earlier row's prompt")
    parser.add_argument("--embedder", default="lsa")
    parser.add_argument("--permutations", type=int, default=499)
    parser.add_argument("--sample", type=int, default=0, help="rows to encode side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    encoder = EncoderSettings(name=args.embedder, device="cpu")
    found: dict[str, list[Record]] = {}
    if args.rows:
        rows = make_rows(args.rows, args.clients, args.repeated, 0)
        found[f"{args.rows} rows, {args.clients} clients"] = by_stage(rows, encoder, args.permutations)
    for repeated in dict.fromkeys((0.0, args.repeated)) if args.sample else ():
        texts = [row.prompt for row in make_rows(args.sample, min(args.clients, args.sample), repeated, 1)]
        found[f"{args.sample} rows, {repeated:.0%} repeated"] = side_by_side(texts, encoder)
    for title, records in found.items():
        show(title, records)
    if args.json:
        files.write_text(args.json, json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
