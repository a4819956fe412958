"""Small raw rows in the columns of all five upstreams, with everything that a pipeline must deal with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Raw = dict[str, Any]
LANGUAGES = {"English": "eng", "French": "fra", "Klingon": "und"}


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def vote(judge: str, prompt: str, a: str, b: str, winner: str = "model_a", **columns: Any) -> Raw:
    row = {"question_id": prompt, "model_a": "x", "model_b": "y", "winner": winner, "judge": judge}
    sides = {"conversation_a": turns(prompt, a), "conversation_b": turns(prompt, b)}
    return row | sides | {"turn": 1, "anony": True, "language": "English", "tstamp": 1.5e9} | columns


def chat(user: str, *contents: str, **columns: Any) -> Raw:
    row = {"conversation_hash": "h", "model": "m", "conversation": turns(*contents), "turn": len(contents) // 2}
    return row | {"language": "English", "hashed_ip": user} | columns


def aya(user: str, prompt: str, answer: str, **columns: Any) -> Raw:
    row = {"inputs": prompt, "targets": answer, "language": "x", "language_code": "eng"}
    return row | {"annotation_type": "o", "user_id": user} | columns


def random_rows(dataset: str, seed: int) -> list[Raw]:
    """Users of all sizes who share questions and answers, repeat themselves and continue old conversations."""
    rng = random.Random(seed)
    return [_row(dataset, f"u{user:02d}", rng) for user in range(30) for _ in range(rng.choice([2, 6, 9, 12, 30]))]


def _row(dataset: str, user: str, rng: random.Random) -> Raw:
    prompt = f"question {rng.randrange(40)}" if rng.random() < 0.5 else f"own question {rng.random()}"
    language = rng.choice(list(LANGUAGES))
    if dataset == "aya":
        return aya(user, prompt, f"a{rng.randrange(4)}", language_code=LANGUAGES[language])
    if dataset.startswith("chatbot"):
        answers = [f"a{i}" for i in rng.sample(range(4), 2)]
        return vote(user, prompt, *answers, rng.choice(["model_a", "model_b", "tie"]), language=language)
    rounds = rng.choice([1, 2, 2, 3])
    words = [(f"more {rng.randrange(2)}", f"a{rng.randrange(2)}") for _ in range(rounds - 1)]
    said = (prompt, f"a{rng.randrange(3)}", *(word for pair in words for word in pair))
    return chat(user, *said, language=language)


def write_raw(path: Path, rows: Iterable[Raw]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
