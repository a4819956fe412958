"""Your own rows: from a JSONL of conversations with user ids to a trained adapter and its table.

    python examples/own_data.py [FOLDER]

Here the conversations are invented: people of three wards tell an assistant what to note. The embedded base model is
trained on them for two rounds, in seconds and without a GPU: a trial of the way, not a result. With a GPU and a real
base give `--profile paper --model FOLDER` instead of `--profile mini`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedllm_bench import cli

SITES = {"ward north": ("tea", "bread"), "ward south": ("rice", "milk"), "ward west": ("soup", "fruit")}
MEALS = ("breakfast", "lunch", "supper", "a snack")


def main(folder: Path) -> None:
    """Write FOLDER/my.jsonl, build FOLDER/split from it and train in FOLDER/runs."""
    folder.mkdir(parents=True, exist_ok=True)
    raw, split = folder / "my.jsonl", folder / "split"
    write_rows(raw)
    build = ["data", "build", "rows", "--raw", str(raw), "--messages", "messages", "--client-column", "site"]
    build += ["--language", "eng", "--name", "wards", "--licence", "CC0-1.0", "--upstream", "invented in own_data.py"]
    # your own rows: leave this out, and rows that hold prompts of the evaluation sets are removed (they are fetched)
    build += ["--decontaminate", "off"]
    bench = ["bench", "rows", "fedavg", "--profile", "mini", "--split", str(split), "--out", str(folder / "runs")]
    bench += ["--set", "federation.rounds=2", "--set", "local.steps=5"]
    for words in ([*build, "--out", str(split)], bench):
        if code := cli.main(words):
            sys.exit(code)


def write_rows(path: Path) -> None:
    """One conversation a line: {"site": ..., "messages": [{"role": ..., "content": ...}, ...]}."""
    with path.open("w", encoding="utf-8") as file:
        for site, foods in SITES.items():
            for number in range(24):
                food, meal = foods[number % 2], MEALS[number % 4]
                asked = f"Note for room {number + 1}: {food} for {meal}."
                messages = [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": f"Noted: room {number + 1} has {food} for {meal}."},
                ]
                file.write(json.dumps({"site": site, "messages": messages}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_data"))
