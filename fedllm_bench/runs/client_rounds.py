"""The held-out loss of every client and unseen user, every E rounds: a line of clients.jsonl for each such round.

The loss is that of the split's task: of completions, or of preference pairs.

The base (round 0) and the last round have none: their scores are in scores/, and nothing is computed twice. But where
the best round is looked for (`federation.patience`), nobody knows yet which round is scored in the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.methods.base import Server
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.scoring import evaluate, ledger_at
from fedllm_bench.scores.summaries import means_by_part

log = logging.getLogger(__name__)
FILE = "clients.jsonl"


def watcher(bench: Bench, stop: Stop | None = None) -> Callable[[Server], None]:
    """What the rounds call with each checkpoint: it scores the rounds that are due and not on file.

    Raises Interrupted between two batches once `stop` is asked for; those that are done are kept.
    """
    every, last = bench.config.evaluation.every, bench.num_rounds
    if every and bench.method.personal:
        log.info("evaluation.every=%d is passed over: under %s each client has an adapter of its own",
                 every, bench.config.method.name)  # fmt: skip
        every = 0
    is_final = {0} if bench.config.federation.patience else {0, last}
    path = bench.cell.folder / FILE

    def watch(server: Server) -> None:
        if not every or server.round % every or server.round in is_final:
            return
        lines = files.read_jsonl_so_far(path)
        if all(line["round"] != server.round for line in lines):
            ledger = ledger_at(path.with_suffix(".batches"), bench)
            files.write_jsonl(path, [*lines, _line(bench, server, ledger, stop)])
            ledger.remove()

    return watch


def _line(bench: Bench, server: Server, ledger: Ledger, stop: Stop | None) -> dict[str, Any]:
    """{"round", "heldout": client -> loss in the metric's unit, "unseen": the same of unseen users, "seconds"}.

    The seconds are those of the session that ended the look.
    """
    started = time.perf_counter()
    pairs, label = [(bench.method.adapter(server), bench.items)], f"round {server.round}"
    found = evaluate(bench, pairs, label, metrics=[bench.loss], ledger=ledger, stop=stop, is_brief=True)
    scores = found[bench.loss]
    return {
        "round": server.round,
        **means_by_part(scores),
        "seconds": round(time.perf_counter() - started, 4),
    }
