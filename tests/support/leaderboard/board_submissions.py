"""Folders of submissions for tests of the site: small runs with made-up scores, or files that a test gives."""

from __future__ import annotations

import gzip
import hashlib
import json

import numpy as np

from fedllm_bench.common import files
from fedllm_bench.config import presets

CLIENTS, ITEMS, ROUNDS = 24, 3, 6
NAMES = tuple(f"user-{i:03d}" for i in range(CLIENTS))
SPLIT = "5b" * 32
TASKS = ("facts", "arithmetic", "style")


def submission_json(**changes):
    said = {
        "version": 1,
        "suite": {"version": "0.1.0", "commit": "a" * 40},
        "track": "mini-aya/fixed",
        "kind": "method",
        "method": "FedAvg",
        "team": "Team of tests",
        "url": "https://example.org/method",
        "contact": "someone@example.org",
        "date": "2026-01-31",
        "tuning": "None: the preset's constants.",
        "training_data": "only the split",
        "claims": {},
    }
    return {**said, **changes}


def write(root, slug, runs, **changes):
    """`runs`: seed -> {name in the run folder: text}. Returns the folder."""
    folder = root / slug
    listed = {}
    for seed, contents in runs.items():
        for name, text in contents.items():
            data, name = text.encode("utf-8", "surrogatepass"), f"runs/{seed}/{name}"
            if name.endswith((".jsonl", "/results.json")):
                data, name = gzip.compress(data, mtime=0), f"{name}.gz"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            listed[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    entries = [
        {"seed": seed, "config_hash": "0123456789", "base_hash": "cd" * 32, "split_hash": SPLIT, "adapter": None}
        for seed in runs
    ]
    said = submission_json(**{"runs": entries, "files": listed, **changes})
    files.write_json(folder / "submission.json", said)
    return folder


def lines(rows):
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def run_files(method="fedavg", *, seed=0, level=0.5, answer="right", profile="mini", overrides=()):
    """The files of a run whose three ranked metrics are the better the higher `level` is."""
    config = presets.load("aya", method, profile, overrides, seed=seed)
    rng = np.random.default_rng([seed, int(level * 1e6), len(method)])
    noise = rng.normal(0, 0.02)
    environment = {"python": "3.11.7", "platform": "Linux", "packages": {"torch": "2.13.0"}}
    return {
        "config.json": json.dumps(config.to_dict()),
        "environment.json": json.dumps(environment),
        "results.json": json.dumps({"privacy": {"epsilon": 4.0 + level} if method == "dp_fedavg" else None}),
        "rounds.jsonl": lines(_rounds(rng, level)),
        **{
            f"scores/{metric}.{side}.jsonl": lines(_scores(metric, of + noise, rng, answer))
            for metric in ("heldout", "mini_exact", "mini_choice")
            for side, of in (("before", 0.2), ("after", level))
        },
    }


def _rounds(rng, level):
    for number in range(1, ROUNDS + 1):
        losses = (2.5 - level * number / ROUNDS + rng.normal(0, 0.05, 8)).round(6).tolist()
        yield {"round": number, "bytes_up": 1000 * (1 + round(10 * level)), "bytes_down": 1000, "losses": losses}


def _scores(metric, level, rng, answer):
    for place, client in enumerate(NAMES):
        for item in range(ITEMS):
            right = (place * 7 + item * 13) % 24 / 24 + rng.normal(0, 0.15) < level
            value = 2.0 - level + 0.01 * place + rng.normal(0, 0.05) if metric == "heldout" else float(right)
            evidence = {"prompt": f"Q{place}-{item}?", "answer": answer if right else "no", "right": answer}
            yield {
                "item_id": f"{client}-{item}",
                "value": round(value, 9),
                "reason": "",
                "cluster": client,
                "weight": 2.0 + item if metric == "heldout" else 1.0,
                "group": {"task": TASKS[item], "language": "eng", "part": "heldout"},
                "evidence": evidence if metric == "mini_exact" else {},
            }


def write_method(root, method, level, *, seeds=(0, 1, 2), made_by=None, answer="right", slug=None, **changes):
    """A submission of made-up runs."""
    runs = {seed: run_files(made_by or method, seed=seed, level=level, answer=answer) for seed in seeds}
    named = {"method": method, **changes}
    return write(root, slug or f"2026-01-31_{method}", runs, **named)
