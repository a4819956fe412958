"""The wrappers of the sections `attack` and `aggregation`, and what of these sections is refused."""

from __future__ import annotations

from dataclasses import fields

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_robust import Aggregation, Attack
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.robust.aggregating import NormBound, Robust
from fedllm_bench.methods.robust.attacks import OF_ROWS, Attacked, attackers_of, changes_uploads
from fedllm_bench.methods.robust.rules import Bulyan, Krum, Median, MultiKrum, RobustRule, TrimmedMean

# Rule -> the constants that it must have, and those that it may have.
CONSTANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mean": ((), ()),
    "median": ((), ()),
    "trimmed_mean": (("trim",), ()),
    "krum": (("byzantine",), ()),
    "multi_krum": (("byzantine",), ("selected",)),
    "bulyan": (("byzantine",), ()),
    "norm_bound": (("bound",), ()),
}
EXAMPLES = {"trim": "0.25", "byzantine": "1", "bound": "1.0"}


def attacked(method: FedAvg, config: RunConfig, num_clients: int | None) -> FedAvg:
    """`method` with attackers among its clients, where the config has some who change what they send."""
    attack = config.attack
    _check_attack(attack)
    _check_rows(attack, config)
    if attack.kind == "none":
        return method
    if num_clients is None:
        raise ValueError("attack.clients: the number of clients is needed to find the attackers")
    attackers = attackers_of(attack, config.seed, num_clients)
    if not changes_uploads(attack):
        return method
    return Attacked(
        inner=method, kind=attack.kind, scale=attack.scale, attackers=frozenset(attackers), seed=config.seed
    )


def _check_attack(attack: Attack) -> None:
    """Refuse what a kind of attack lacks, or has no use for."""
    kind = attack.kind
    unused = {
        "clients": kind == "none",
        "rows": kind not in OF_ROWS,
        "scale": kind == "none",
        "trigger": kind not in ("none", "trigger"),
        "answer": kind not in ("none", "trigger"),
    }
    for field in fields(Attack):
        if unused.get(field.name) and (value := getattr(attack, field.name)) != field.default:
            way = "give a kind too, as in --set attack.kind=sign_flip, or " if kind == "none" else ""
            raise UserError(f"attack.{field.name}={value}: attack.kind={kind} has no use for it; {way}leave it out")
    if kind != "none" and not attack.clients:
        raise UserError(
            f"attack.kind={kind}: nobody attacks; give the numbers of clients, as in --set attack.clients=0,3, or a "
            "share of them, as in --set attack.clients=0.2"
        )
    if kind == "scaled" and attack.scale == 1:
        raise UserError("attack.kind=scaled: a scale of 1 changes nothing; give one, as in --set attack.scale=10")
    _check_words(attack)


def _check_words(attack: Attack) -> None:
    words = {"trigger": attack.trigger, "answer": attack.answer}
    if attack.kind == "trigger" or any(words.values()):
        for key, text in words.items():
            if not text:
                raise UserError(
                    f"attack.{key}: not given; trigger and answer go together, as in --set attack.{key}=abc"
                )
            if text != text.strip() or not text.isprintable():
                raise UserError(f"attack.{key}={text!r}: give words without control characters, and no space at an end")


def _check_rows(attack: Attack, config: RunConfig) -> None:
    """Refuse poisoned rows where the rows are not a user's own, or nothing would measure the attack."""
    if attack.kind in OF_ROWS:
        for key in ("shuffle_users", "swap_answers", "canaries"):
            if value := getattr(config.data, key):
                raise UserError(
                    f"attack.kind={attack.kind} changes a user's rows, and so does data.{key}={str(value).lower()}; "
                    "leave one of them out"
                )
    if attack.trigger and config.data.task != "sft":
        raise UserError(
            f"attack.trigger: no metric of data.task={config.data.task} asks with it; give a data set of task sft, or "
            "--set attack.kind=harmful"
        )


def robust(method: FedAvg, config: RunConfig) -> FedAvg:
    """`method` under the rule of the section `aggregation`."""
    aggregation = config.aggregation
    _check_constants(aggregation)
    if aggregation.rule == "mean":
        return method
    _check_fits(method, config)
    if aggregation.bound is not None:
        return NormBound(inner=method, bound=aggregation.bound)
    if method.weighting != "uniform":
        raise UserError(
            f"federation.weighting={method.weighting}: under aggregation.rule={aggregation.rule} each client counts "
            "alike; give --set federation.weighting=uniform"
        )
    rule = _rule(aggregation)
    _check_enough(rule, config.federation.clients_per_round)
    return Robust(inner=method, rule=rule)


def _check_constants(aggregation: Aggregation) -> None:
    needed, more = CONSTANTS[aggregation.rule]
    for key in (field.name for field in fields(Aggregation) if field.name != "rule"):
        value = getattr(aggregation, key)
        if value is not None and key not in (*needed, *more):
            of = [rule for rule, keys in CONSTANTS.items() if key in (*keys[0], *keys[1])]
            raise UserError(
                f"aggregation.{key}={value} belongs to aggregation.rule={' or '.join(of)}, and the rule is "
                f"{aggregation.rule}; leave it out"
            )
        if value is None and key in needed:
            raise UserError(
                f"aggregation.rule={aggregation.rule} needs aggregation.{key}; give it, as in "
                f"--set aggregation.{key}={EXAMPLES[key]}"
            )


def _check_fits(method: FedAvg, config: RunConfig) -> None:
    """Refuse a rule where the sum of uploads is a private one, or another rule needs them all."""
    rule = config.aggregation.rule
    if method.expected_clients() is not None or config.privacy.clip is not None:
        raise UserError(
            f"aggregation.rule={rule}: with privacy the server adds clipped uploads up and divides by a fixed number; "
            "leave one of the sections out"
        )
    if config.lora.ranks is not None:
        raise UserError(
            f"aggregation.rule={rule}: rows that a client of a lower rank lacks count as zeros, which is no value of "
            "that client; leave lora.ranks or the rule out"
        )
    if config.communication.aggregation_error and rule != "norm_bound":
        raise UserError(
            f"communication.aggregation_error=true: it is what a mean of A and of B loses, and aggregation.rule={rule} "
            "takes no mean of all; leave one of them out"
        )
    if method.needs_all:
        products = config.communication.lora_aggregation
        own = config.method.name if products == "mean" else f"communication.lora_aggregation={products}"
        raise UserError(f"aggregation.rule={rule}: {own} has a rule of its own for all uploads; leave one of them out")


def _rule(aggregation: Aggregation) -> RobustRule:
    if aggregation.trim is not None:
        return TrimmedMean(aggregation.trim)
    if aggregation.byzantine is None:
        return Median()
    kinds: dict[str, RobustRule] = {
        "krum": Krum(aggregation.byzantine),
        "multi_krum": MultiKrum(aggregation.byzantine, aggregation.selected),
        "bulyan": Bulyan(aggregation.byzantine),
    }
    return kinds[aggregation.rule]


def _check_enough(rule: RobustRule, n: int) -> None:
    """Refuse a rule for which the clients of a round are too few even where all of them answer."""
    if n < rule.least:
        raise UserError(f"{rule.too_few(n)}, or more clients a round (federation.clients_per_round is {n})")
