"""How a build grows with its raw rows: time and peak memory, beside the plain way.

  build  `fedllm-bench data build aya` on a JSON lines file
  plain  `datasets.load_dataset("json")`, `filter`, then a pandas `groupby` that drops small users

Every size has the same users above the cut; all other rows are of new users with five rows each, below it. So
what is kept stays the same, and memory should as well. Each way runs alone in a process, whose peak is measured.
The plain way stops where a build goes on to duplicates, held-out rows, hashes and files.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_json  # this process stays small: a child's peak starts with its parent's

EPILOG = """examples:
  python benchmarks/perf/build_scale.py
  python benchmarks/perf/build_scale.py --rows 1000000,2000000 --json build_scale.json

With FEDLLM_BENCH_REAL_ROWS set to a folder that has aya_columns.jsonl.gz, its rows are the kept ones, and their
texts, varied, those of the new users. Without it the rows are made up.
"""
REAL_FILE = "aya_columns.jsonl.gz"
LANGUAGES = ("ukr", "spa", "eng")
MIN_SAMPLES, ROWS_OF_NEW_USERS, MADE_UP_USERS = 10, 5, 361
COLUMNS = ("inputs", "targets", "language", "language_code", "annotation_type", "user_id")
MIB = 2**20
Row = dict[str, Any]


def base_rows() -> list[Row]:
    """The rows with the users above the cut; made-up ones have as many rows as users with long tails have."""
    if folder := os.environ.get("FEDLLM_BENCH_REAL_ROWS"):
        with gzip.open(Path(folder) / REAL_FILE, "rt", encoding="utf-8") as lines:
            # no other columns: some stand in some rows only, which the plain way cannot read
            return [{name: row[name] for name in COLUMNS} for row in map(json.loads, lines)]
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    sizes = [min(700, int(MIN_SAMPLES * rng.paretovariate(1.2))) for _ in range(MADE_UP_USERS)]
    return [_made_up(f"user-{user:04d}", words, rng) for user, size in enumerate(sizes) for _ in range(size)]


def _made_up(user: str, words: Sequence[str], rng: random.Random) -> Row:
    texts = {name: " ".join(rng.choices(words, k=rng.randint(5, 60))) for name in ("inputs", "targets")}
    code = rng.choice(LANGUAGES)
    return {**texts, "language": code, "language_code": code, "annotation_type": "x", "user_id": user}


def raw_rows(base: Sequence[Row], num_rows: int) -> Iterator[Row]:
    """`num_rows` rows: the base, then its texts again, varied, under new users below the cut."""
    yield from base[:num_rows]
    for number in range(num_rows - len(base)):
        row = base[number % len(base)]
        user = f"new-{number // ROWS_OF_NEW_USERS:08d}"
        yield row | {"user_id": user, "inputs": f"{row['inputs']} ({number})", "targets": f"{number}: {row['targets']}"}


def write_raw(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for batch in iter(lambda: list(itertools.islice(rows, 1000)), []):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch)


def plain(raw: Path, cache: Path) -> tuple[int, int]:
    """Rows and clients that are left, by the libraries alone."""
    import datasets

    table = datasets.load_dataset("json", data_files=str(raw), split="train", cache_dir=str(cache))
    table = table.filter(lambda row: row["language_code"] in LANGUAGES and row["inputs"].strip())
    frame = table.to_pandas()
    frame = frame[frame.groupby("user_id")["inputs"].transform("size") >= MIN_SAMPLES]
    return len(frame), frame["user_id"].nunique()


def commands(raw: Path, work: Path) -> dict[str, list[str]]:
    build = ["-m", "fedllm_bench", "data", "build", "aya", "--raw", str(raw), "--out", str(work / "split")]
    build += ["--min-samples", str(MIN_SAMPLES), "--languages", ",".join(LANGUAGES)]
    build += ["--decontaminate", "off"]  # its sets may have to be fetched, and the plain way has no such step
    return {"build": build, "plain": [__file__, "--plain", str(raw), str(work / "cache")]}


def measured(words: Sequence[str]) -> dict[str, float]:
    """Wall seconds and peak MiB of a Python process; raises RuntimeError with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        child = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)  # of this child alone, unlike RUSAGE_CHILDREN
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(words)} failed:\n{output.read().decode(errors='replace')[-2000:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss * 1024 / MIB,
    }


def measure(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """One record for each size and way."""
    found = []
    for num_rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            work, raw = Path(folder), Path(folder) / "rows.jsonl"
            write_raw(raw, raw_rows(base_rows(), num_rows))
            for way, words in commands(raw, work).items():
                found.append({"way": way, "rows": num_rows, "raw_mib": raw.stat().st_size / MIB, **measured(words)})
            manifest = json.loads((work / "split" / "manifest.json").read_text(encoding="utf-8"))
            found[-2] |= {"hash": manifest["hash"], "clients": len(manifest["clients"])}
    return found


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    head = f"{'way':<8}{'rows':>10}{'file MiB':>10}{'seconds':>9}{'rows/s':>9}{'peak MiB':>10}"
    return [head] + [
        f"{one['way']:<8}{one['rows']:>10,}{one['raw_mib']:>10.0f}{one['seconds']:>9.1f}"
        f"{one['rows'] / one['seconds']:>9,.0f}{one['peak_mib']:>10.0f}"
        for one in found
    ]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rows", type=_sizes, default=[200_000], metavar="N,N", help="sizes to build (default: 200000)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    made.add_argument("--plain", nargs=2, type=Path, metavar=("RAW", "CACHE"), help="run the plain way alone")
    return made


def _sizes(text: str) -> list[int]:
    sizes = [int(word) for word in text.split(",")]
    if min(sizes) < 1:
        raise ValueError(text)
    return sizes


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    if args.plain:
        rows, clients = plain(*args.plain)
        sys.stdout.write(f"{rows} rows of {clients} clients\n")
        return 0
    found = measure(args.rows)
    sys.stdout.write("\n".join(table(found)) + "\n")
    if args.json:
        write_json(args.json, {"source": os.environ.get("FEDLLM_BENCH_REAL_ROWS") and REAL_FILE, "runs": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
