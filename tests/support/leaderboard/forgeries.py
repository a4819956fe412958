"""What can be done to a submission of one run: name -> (the change, the codes of which it must be refused or flagged).

A change leaves the hashes as a careful forger would: fixed up, but where the forgery is that they are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from submissions import Forgery

RUN = "runs/0"
ROUNDS, RESULTS, CONFIG = f"{RUN}/rounds.jsonl.gz", f"{RUN}/results.json.gz", f"{RUN}/config.json"
TENSORS = f"{RUN}/adapter/adapter_model.safetensors"
ANSWERS = f"{RUN}/answers/mini/global.jsonl.gz"
PROMPTS, PLAN = f"{RUN}/answers/mini/prompts.jsonl.gz", f"{RUN}/answers/mini/plan.json"
Change = Callable[[Forgery], Any]
ALL: dict[str, tuple[Change, set[str]]] = {}


def scores(metric: str, side: str = "after") -> str:
    return f"{RUN}/scores/{metric}.{side}.jsonl.gz"


def judgements(forgery: Forgery, side: str = "global") -> str:
    (judge,) = (path.name for path in (forgery.folder / RUN / "judgements").iterdir())
    return f"{RUN}/judgements/{judge}/mini/{side}.jsonl.gz"


def forged(*expected: str, fix: str = "hashes") -> Callable[[Change], Change]:
    """Register a change by its name; `fix`: what is fixed up behind it ("hashes", "claims" too, or nothing)."""

    def register(change: Change) -> Change:
        def whole(forgery: Forgery) -> None:
            change(forgery)
            {"claims": forgery.fix_claims, "hashes": forgery.fix_hashes, "": lambda: None}[fix]()

        ALL[change.__name__.replace("_", " ")] = (whole, set(expected))
        return change

    return register


def every(**values: Any) -> Callable[[list[Any]], None]:
    """Set keys of every line."""
    return lambda found: [line.update(values) for line in found] and None


# --- scores


@forged("file-hash", fix="")
def a_score_edited(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0].update(value=0.001))


@forged("claims", "results")
def a_score_edited_and_its_hash_fixed_up(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0].update(value=0.001))


@forged("evidence", fix="claims")
def a_right_answer_claimed_against_its_evidence(f: Forgery) -> None:
    f.set_lines(scores("mini_exact"), lambda found: [line.update(value=1.0) for line in found] and None)


@forged("items", fix="claims")
def the_right_answer_made_that_of_the_model(f: Forgery) -> None:
    def change(found: list[Any]) -> None:
        for line in found:
            line["evidence"]["right"], line["value"] = line["evidence"]["answer"], 1.0

    f.set_lines(scores("mini_exact"), change)


@forged("evidence", fix="claims")
def a_choice_claimed_against_its_losses(f: Forgery) -> None:
    f.set_lines(scores("mini_choice"), lambda found: [line.update(value=1 - line["value"]) for line in found] and None)


@forged("items", fix="claims")
def hard_items_dropped(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: sorted(found, key=lambda line: line["value"])[:-3])


@forged("record")
def easy_items_repeated(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: [*found, found[0]])


@forged("items", fix="claims")
def an_item_invented(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: [*found, {**found[0], "item_id": "mine"}])


@forged("items", fix="claims")
def hard_users_called_unseen(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0]["group"].update(part="unseen"))


@forged("items", fix="claims")
def hard_items_weigh_less(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0].update(weight=0.5))


@forged("not-json")
def a_score_that_is_no_number(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0].update(value=float("nan")))


@forged("uncovered", fix="claims")
def hard_items_left_unscored(f: Forgery) -> None:
    f.set_lines(scores("heldout"), lambda found: found[0].update(value=None, reason="too hard"))


@forged("items", "uncovered", fix="claims")
def a_metric_left_out(f: Forgery) -> None:
    for side in ("before", "after"):
        (f.folder / scores("mini_exact", side)).unlink()


@forged("claims", fix="")
def a_better_claim(f: Forgery) -> None:
    f.set_head(lambda head: head["claims"]["heldout"].update({"0": 0.1}))


@forged("results")
def a_better_mean_in_results(f: Forgery) -> None:
    f.json(RESULTS, lambda results: results["metrics"]["heldout"]["after"].update(mean=0.1))


@forged("results")
def fewer_clients_got_worse_in_results(f: Forgery) -> None:
    f.json(RESULTS, lambda results: results["metrics"]["heldout"]["distribution"].update(num_worse=-1))


@forged("intervals")
def a_narrower_interval(f: Forgery) -> None:
    f.json(RESULTS, lambda results: results["metrics"]["heldout"]["after"].update(ci_low=-9.0))


# --- the log of training


@forged("rounds")
def fewer_rounds_than_claimed(f: Forgery) -> None:
    f.set_lines(ROUNDS, lambda found: found[:-1])


@forged("rounds")
def a_round_twice(f: Forgery) -> None:
    f.set_lines(ROUNDS, lambda found: [found[0], {**found[1], "round": 1}])


@forged("schedule")
def another_schedule(f: Forgery) -> None:
    def change(found: list[Any]) -> None:
        left = [client for client in range(6) if client not in found[0]["clients"]]
        found[0]["clients"] = sorted([left[0], *found[0]["clients"][1:]])

    f.set_lines(ROUNDS, change)


@forged("num-examples")
def more_rows_than_the_clients_have(f: Forgery) -> None:
    f.set_lines(ROUNDS, lambda found: found[0].update(num_examples=[999] * 3))


@forged("local-steps")
def more_local_steps(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(steps=[9, 9, 9]))


@forged("learning-rate")
def another_learning_rate_in_the_log(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(lr=0.3))


@forged("config-hash")
def another_learning_rate_in_the_config(f: Forgery) -> None:
    f.json(CONFIG, lambda config: config["local"].update(lr=0.3))


@forged("bytes")
def smaller_bytes(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(bytes_up=1000))
    f.json(RESULTS, lambda results: results["cost"].update(bytes_up=2000))


@forged("cost")
def smaller_bytes_in_results(f: Forgery) -> None:
    f.json(RESULTS, lambda results: results["cost"].update(bytes_up=1))


@forged("log")
def a_round_in_no_time(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(seconds=0.0))


@forged("log")
def a_loss_below_zero(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(losses=[-1.0, 0.5, 0.5]))


@forged("schedule", "cost")
def clients_that_dropped_out_of_no_fault(f: Forgery) -> None:
    why = "dropped out (faults.dropout)"
    f.set_lines(ROUNDS, every(failures=[why, None, None], steps=[0, 2, 2], losses=[None, 0.5, 0.5]))


@forged("record")
def lists_of_unequal_length(f: Forgery) -> None:
    f.set_lines(ROUNDS, every(losses=[0.5]))


@forged("record")
def a_round_that_is_none(f: Forgery) -> None:
    f.set_lines(ROUNDS, lambda found: [{"round": 1}, *found[1:]])
