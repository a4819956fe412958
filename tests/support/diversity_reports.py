"""Diversity reports as the command writes them (docs/diversity.md), made up: for figures, page and card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diversity_sections import preferences, quality
from numpy.typing import NDArray

LANGUAGES = ("arb", "eng", "spa", "fra", "por", "rus", "tel", "zho")
TERMS = {
    "arb": ("اللون", "المفضل", "مدينة"),
    "eng": ("recipe", "city", "letter"),
    "spa": ("añadir", "ciudad", "música"),
    "fra": ("écrire", "château", "élève"),
    "por": ("coração", "viagem", "pão"),
    "rus": ("письмо", "город", "рассказ"),
    "tel": ("భాష", "క్షమించు", "కవిత"),
    "zho": ("颜色", "故事", "城市"),
}
HOSTILE = "<script>alert(1)</script>&\"'$x$"


@dataclass(frozen=True)
class Arrays:
    similarity: NDArray[np.float64]
    mmd2: NDArray[np.float64]


def made_up(num_clients: int, *, seed: int = 0, preference: bool = False, embedded: bool = True) -> tuple[dict, Any]:
    """(report, arrays) of `num_clients` clients of one or two of eight languages."""
    rng = np.random.default_rng(seed)
    clients = [client(i, rng, preference) for i in range(num_clients)]
    total = sum(c["rows"] for c in clients)
    for c in clients:
        c["share"] = c["rows"] / total
    on = {"rows": total, "clients": num_clients}
    arrays = pairs(clients, rng)
    sections = {
        "quantity": {**quantity(clients), "computed_on": {**on, "what": "training and held-out rows"}},
        "length": {**lengths(rng), "computed_on": {**on, "what": "all texts"}},
        "language": {**languages(clients), "computed_on": {**on, "what": "the upstream's column of languages"}},
        "instruction": {**topics(clients, rng), "computed_on": {**on, "what": "embeddings of prompts"}},
        "embedding": {**embedding(clients, arrays, rng), "computed_on": {**on, "what": "embeddings of prompts"}},
        "quality": {**quality(), "computed_on": {**on, "what": "IFD by the base model"}},
        "preference": {"skipped": "the rows have no rejected answer"},
    }
    if preference:
        sections["preference"] = {**preferences(), "computed_on": {**on, "what": "chosen against rejected"}}
    if not embedded:
        why = {"skipped": "no encoder: pip install sentence-transformers, or --embedder lsa"}
        sections |= {"embedding": why, "instruction": why}
    report = {
        "diversity_version": 1,
        "split": {
            "name": "made-up",
            "dataset": "aya",
            "hash": "0123456789abcdef",
            "task": "preference" if preference else "sft",
            "rows": total,
            "clients": num_clients,
        },
        "settings": {
            "embedder": {"id": "lsa-64", "dimensions": 64, "max_tokens": None, "truncated_rows": 0}
            if embedded
            else None,
            "tokenizer": "the embedded mini tokenizer",
            "quality_model": "mini",
            "seed": 0,
            "permutations": 499,
            "max_rows": None,
        },
        "clients": clients,
        "sections": sections,
    }
    return report, arrays if embedded else None


def spread(rng: np.random.Generator, centre: float) -> dict[str, float]:
    values = np.exp(rng.normal(np.log(centre), 0.8, size=200)).round() + 1
    least, largest = float(values.min()), float(values.max())
    middle = {"mean": float(values.mean()), "std": float(values.std()), "median": float(np.median(values))}
    return {**middle, "least": least, "largest": largest}


def client(i: int, rng: np.random.Generator, preference: bool) -> dict[str, Any]:
    rows = int(np.exp(rng.normal(4.5, 1)).round()) + 2
    main = LANGUAGES[int(rng.choice(8, p=[0.2, 0.3, 0.12, 0.1, 0.08, 0.1, 0.05, 0.05]))]
    own = {main: rows}
    if rng.random() < 0.2 and rows > 10:
        own = {main: rows - rows // 3, LANGUAGES[(LANGUAGES.index(main) + 1) % 8]: rows // 3}
    p = np.array(list(own.values())) / rows
    near = rng.dirichlet(np.full(12, 0.3))
    counts = rng.multinomial(rows, near)
    found: dict[str, Any] = {
        "id": f"user-{i:03d}" if i % 7 else HOSTILE + str(i),
        "rows": rows,
        "main_language": main,
        "languages": own,
        "language_entropy": float(-(p * np.log2(p)).sum()),
        "prompt_characters": spread(rng, 200),
        "completion_characters": spread(rng, 700),
        "prompt_tokens": spread(rng, 50),
        "completion_tokens": spread(rng, 180),
        "topics": {str(t): int(n) for t, n in enumerate(counts) if n},
        "distance_to_rest": float(rng.gamma(2, 0.05)) - 0.02 if rows > 2 else None,
        "cluster": LANGUAGES.index(main),
        "ifd": {"mean": float(rng.normal(0.7, 0.1)), "sd": 0.2, "median": float(rng.normal(0.68, 0.1)), "rows": rows},
        "duplicate_share": float(rng.beta(1, 20)),
    }
    if preference:
        effects = {"characters": 120.0, "lists": 0.1, "language": 0.02}
        found["preference"] = {
            name: {
                "mean": (mean := float(rng.normal(size_, size_))),
                "low": mean - size_,
                "high": mean + size_,
                "n": rows,
            }
            for name, size_ in effects.items()
        }
    return found


def quantity(clients: list[dict]) -> dict[str, Any]:
    sizes = np.sort([c["rows"] for c in clients])
    n, share = len(sizes), sizes / sizes.sum()
    return {
        "sizes": {
            "mean": float(sizes.mean()),
            "std": float(sizes.std()),
            "median": float(np.median(sizes)),
            "least": int(sizes.min()),
            "largest": int(sizes.max()),
        },
        "gini": float(2 * (np.arange(1, n + 1) * sizes).sum() / (n * sizes.sum()) - (n + 1) / n),
        "effective_clients": float(np.exp(-(share * np.log(share)).sum())),
        "effective_clients_simpson": float(1 / (share**2).sum()),
        "largest_share": float(share.max()),
    }


def lengths(rng: np.random.Generator) -> dict[str, Any]:
    levels = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]

    def quantiles(centre: float) -> list[list[float]]:
        values = np.exp(rng.normal(np.log(centre), 0.9, size=5000))
        return [[q, float(np.quantile(values, q))] for q in levels]

    kinds = {"prompt_characters": 200, "completion_characters": 700, "prompt_tokens": 50, "completion_tokens": 180}
    return {
        "unit_tokens": "the embedded mini tokenizer",
        **{kind: spread(rng, centre) for kind, centre in kinds.items()},
        "quantiles": {"prompt": quantiles(50), "completion": quantiles(180)},
    }


def languages(clients: list[dict]) -> dict[str, Any]:
    rows: dict[str, int] = {}
    for c in clients:
        for code, n in c["languages"].items():
            rows[code] = rows.get(code, 0) + n
    return {
        "rows": rows,
        "entropy": 2.7,
        "mean_client_entropy": 0.2,
        "num_monolingual_clients": sum(len(c["languages"]) == 1 for c in clients),
    }


def topics(clients: list[dict], rng: np.random.Generator) -> dict[str, Any]:
    found = []
    for topic in range(12):
        code = LANGUAGES[topic % 8]
        own = [c["topics"].get(str(topic), 0) for c in clients]
        parts = rng.multinomial(sum(own), [0.5, 0.3, 0.2])
        terms = TERMS[code]
        found.append({
            "id": str(topic),
            "terms": [*terms, f"{terms[0]}{topic}"],
            "rows": sum(own),
            "clients": sum(n > 0 for n in own),
            "languages": {code: sum(own)},
            "inner": [{"terms": [terms[i]], "rows": int(n)} for i, n in enumerate(parts)],
        })  # fmt: skip
    return {"method": "topics", "topics": found, "topic_entropy": 3.1, "mutual_information": 1.4}


def pairs(clients: list[dict], rng: np.random.Generator) -> Arrays:
    same = np.array([[a["cluster"] == b["cluster"] for a in clients] for b in clients])
    noise = rng.normal(0, 0.05, size=same.shape)
    similarity = np.clip(np.where(same, 0.7, 0.15) + (noise + noise.T) / 2, -1, 1)
    np.fill_diagonal(similarity, 1)
    mmd2 = (1 - similarity) / 3
    return Arrays(similarity, mmd2)


def embedding(clients: list[dict], arrays: Arrays, rng: np.random.Generator) -> dict[str, Any]:
    order = sorted(range(len(clients)), key=lambda i: (clients[i]["cluster"], i))
    owner = rng.choice(len(clients), size=min(4000, sum(c["rows"] for c in clients)))
    centres = rng.normal(0, 3, size=(8, 2))
    points = np.array([centres[clients[i]["cluster"]] for i in owner]) + rng.normal(0, 0.8, size=(len(owner), 2))
    off = arrays.similarity[~np.eye(len(clients), dtype=bool)]
    plain = {"strata": 1, "strata_used": 1, "stratified_by": []}
    return {
        "order": [clients[i]["id"] for i in order],
        "clusters": {
            "labels": [c["cluster"] for c in clients],
            "number": 8,
            "rule": "largest mean silhouette, 2 to 20",
        },
        "similarity": similarity_of(off),
        "index": index(0.12 if len(off) else None, rng),
        "index_unstratified": {**index(0.34, rng), **plain},
        "map": {
            "pca": points.tolist(),
            "tsne": (points * 3 + rng.normal(size=points.shape)).tolist(),
            "client": [int(i) for i in owner],
            "language": [clients[i]["main_language"] for i in owner],
            "explained": [0.21, 0.13],
        },
    }


def similarity_of(off: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(off):
        return {"mean": None, "least": None, "largest": None}
    return {"mean": float(off.mean()), "least": float(off.min()), "largest": float(off.max())}


def index(value: float | None, rng: np.random.Generator) -> dict[str, Any]:
    null = rng.normal(0, 0.01, size=499)
    counts, edges = np.histogram(null, bins=20)
    return {
        "value": value,
        "se": 0.015,
        "p_value": None if value is None else 0.002,
        "permutations": 499,
        "null": {
            "mean": float(null.mean()),
            "sd": float(null.std()),
            "low": float(np.quantile(null, 0.025)),
            "high": float(np.quantile(null, 0.975)),
            "histogram": [[float(a), float(b), int(c)] for a, b, c in zip(edges, edges[1:], counts, strict=False)],
        },
        "strata": 9,
        "strata_used": 8,
        "rows_used": 2000,
        "rejected_at_0.05": True,
        "stratified_by": ["source", "language"],
    }


def against(report: dict, other: dict) -> dict[str, Any]:
    """What `--against` adds."""
    sizes, others = ([c["rows"] for c in one["clients"]] for one in (report, other))
    return {
        "split": {**other["split"], "name": "other"},
        "settings": other["settings"],
        "measures": [
            {"name": "quantity.gini", "label": "Gini coefficient of sizes", "unit": "", "here": 0.5, "there": 0.25},
            {"name": "quality.ifd.mean", "label": "IFD, mean", "unit": "", "here": 0.7, "there": None},
        ],
        "clients": [
            {"name": "rows", "label": "rows of a client", "unit": "rows", "here": sizes, "there": others, "ks": 0.2,
             "p_value": 0.04},
            {"name": "ifd.mean", "label": "IFD of a client, mean", "unit": "", "here": [0.7], "there": [], "ks": None,
             "p_value": None},
        ],
        "languages": {"here": {"eng": 1.0}, "there": {"spa": 1.0}, "divergence": 1.0},
        "preference": None,
        "shared": {"rows": 0.25, "prompts": 0.5, "clients": 3},
    }  # fmt: skip
