"""Which wrappers a config puts around its method, and what is refused.

From the inside: the frozen A (what exists), float16 (how it travels), privacy (what the server counts of it).
Privacy is the outermost, so that nothing is done to an upload after it was clipped.
"""

from __future__ import annotations

from dataclasses import replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_uploads import Communication
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.accounting import find_noise
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.privacy import DpFedAvg, Private
from fedllm_bench.methods.uploads import FrozenA, HalfUploads


def wrap(method: FedAvg, config: RunConfig, num_clients: int | None) -> FedAvg:
    """`method` in the wrappers that `config` asks for; a :class:`UserError` where it cannot have them.

    Raises a :class:`ValueError` where privacy.epsilon is to find the noise and `num_clients` is None.
    """
    if replace(config.communication, budget_mb=None) != Communication():  # nothing sent passes no budget
        _check_sends(method, config, "communication")
    if config.communication.lora_aggregation == "frozen_a":
        method = FrozenA(inner=method)
    if config.communication.upload_dtype == "float16":
        method = HalfUploads(inner=method)
    return _private(method, config, num_clients)


def _private(method: FedAvg, config: RunConfig, num_clients: int | None) -> FedAvg:
    privacy, name = config.privacy, config.method.name
    if privacy.clip is None:
        _check_off(method, config)
        return method
    _check_sends(method, config, "privacy")
    if method.weighting != "uniform":
        raise UserError(
            f"federation.weighting={method.weighting}: with privacy each client of {name} must count alike; "
            "give --set federation.weighting=uniform"
        )
    return Private(
        inner=method,
        clip=privacy.clip,
        noise_multiplier=_noise_multiplier(config, num_clients),
        expected=float(config.federation.clients_per_round),
        seed=config.seed,
    )


def _check_off(method: FedAvg, config: RunConfig) -> None:
    privacy = config.privacy
    given = [key for key in ("noise_multiplier", "epsilon") if getattr(privacy, key) is not None]
    if given or isinstance(method, DpFedAvg):
        why = f"privacy.{given[0]}={getattr(privacy, given[0])}" if given else config.method.name
        raise UserError(f"{why} needs a bound on what one client sends; give --set privacy.clip=1.0")


def _check_sends(method: FedAvg, config: RunConfig, section: str) -> None:
    """Refuse what has no uploads, and the published rules, which are to stay what was published."""
    name = config.method.name
    if not method.sends:
        why = "has no clients" if method.pooled else "sends nothing"
        raise UserError(f"{section}.*: {name} {why}, so there is nothing to wrap; leave {section} out or take fedavg")
    if config.variant == "released":
        raise UserError(f"{section}.*: variant=released is as published, without it; give variant=paper")


def _noise_multiplier(config: RunConfig, num_clients: int | None) -> float:
    privacy, federation = config.privacy, config.federation
    if (privacy.noise_multiplier is None) == (privacy.epsilon is None):
        got = "neither" if privacy.epsilon is None else "both"
        raise UserError(
            f"privacy: got {got} of noise_multiplier and epsilon, the one follows from the other; "
            "give one, as in --set privacy.epsilon=8 --set privacy.noise_multiplier=none"
        )
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    if num_clients is None or privacy.epsilon is None:
        raise ValueError("privacy.epsilon: the number of clients is needed to find the noise")
    federation.check(num_clients)
    return find_noise(privacy.epsilon, privacy.delta, federation.clients_per_round / num_clients, federation.rounds)
