"""What the checks of a run say: which round is the best, and whether training ends (`federation.patience`).

A check is the validation loss after a round, in that round's line of rounds.jsonl. Everything here is a function of
these lines and the config, so a run that goes on after a kill decides as it would have without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig

Rounds = Sequence[Mapping[str, Any]]


def checked(rounds: Rounds) -> list[Mapping[str, Any]]:
    """The lines of rounds with a check."""
    return [record for record in rounds if record.get("check")]


def best_round(rounds: Rounds) -> int | None:
    """The first round with the smallest validation loss; None without a finite one."""
    found = [(record["check"]["loss"], record["round"]) for record in checked(rounds)]
    return min(((loss, number) for loss, number in found if loss is not None), default=(0.0, None))[1]


def checks_since(rounds: Rounds) -> int:
    """How many checks came after that of the best round; all of them without a best one."""
    best = best_round(rounds) or 0
    return sum(record["round"] > best for record in checked(rounds))


def has_stopped(config: RunConfig, rounds: Rounds) -> bool:
    """Whether no round comes after these."""
    return ends_at(config, rounds) is not None


def ends_at(config: RunConfig, rounds: Rounds) -> int | None:
    """How many of these rounds there are once training has ended; None where it goes on behind them."""
    patience, best, since = config.federation.patience, None, 0
    for number, record in enumerate(rounds if patience else (), 1):
        if not (check := record.get("check")):
            continue
        loss = check["loss"]
        if loss is not None and (best is None or loss < best):
            best, since = loss, 0
        else:
            since += 1
        if since >= patience:
            return number
    return None


def stopped_early(config: RunConfig, rounds: Rounds) -> str:
    """What is said of a run that ended before its last round because nothing got better; "" of any other."""
    done, asked = len(rounds), config.federation.rounds
    if done >= asked or not has_stopped(config, rounds):
        return ""
    best = best_round(rounds)
    since = counted(checks_since(rounds), "check")
    what = f"is best after round {best}, and not better in {since} since" if best else f"is not finite in {since}"
    return (
        f"federation.patience={config.federation.patience}: the validation loss {what}; training ends after round "
        f"{done} of {asked}"
    )


def kept_round(rounds: Rounds) -> int:
    """The round whose adapter a run leaves: the best one, or the last where none was checked."""
    return best_round(rounds) or len(rounds)


def early_stop_block(config: RunConfig, rounds: Rounds, num_rows: int, num_clients: int) -> dict[str, Any] | None:
    """`early_stop` of results.json; None where `federation.patience` is off."""
    federation = config.federation
    if not federation.patience:
        return None
    kept = kept_round(rounds)
    sent = [record["bytes_up"] + record["bytes_down"] for record in rounds]
    checks = [record["check"] for record in checked(rounds)]
    return {
        "patience": federation.patience,
        "check_every": federation.check_every,
        "validation": federation.validation,
        "num_validation_rows": num_rows,
        "num_validation_clients": num_clients,
        "rounds_asked": federation.rounds,
        "rounds_run": len(rounds),
        "best_round": kept,
        "best_loss": next((record["check"]["loss"] for record in checked(rounds) if record["round"] == kept), None),
        "stopped": stopped_early(config, rounds),
        "bytes_to_best": sum(sent[:kept]),
        "bytes_to_end": sum(sent),
        "bytes_of_checks": sum(check["bytes_up"] + check["bytes_down"] for check in checks),
        "checks": [{"round": record["round"], "loss": record["check"]["loss"]} for record in checked(rounds)],
    }
