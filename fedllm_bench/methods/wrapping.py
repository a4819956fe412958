"""Which wrappers a config puts around its method, and what is refused.

From the inside: half an adapter (`adapters/`) or a rule of products (`products/`), clients' ranks (what exists),
attackers (what they send), how messages and uploads travel, a rule of aggregation or privacy (what the server counts of
them). These are the outermost, so that nothing is done to an upload after it was clipped. A secure sum is the last in
their place: of it the server counts no single upload, so it goes with nothing that does.
"""

from __future__ import annotations

from dataclasses import replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_uploads import Communication
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.accounting import find_noise
from fedllm_bench.methods.adapting import check_offsite, with_half, with_ranks
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import SmallDownloads, SmallUploads
from fedllm_bench.methods.communication.secure_sum import SecureSum
from fedllm_bench.methods.privacy import DpFedAvg, Private
from fedllm_bench.methods.products.chosen import with_rule
from fedllm_bench.methods.products.rule import ProductRule
from fedllm_bench.methods.robust.wrappers import attacked, robust
from fedllm_bench.methods.wrapped import find

# Rules of `communication.lora_aggregation` whose A and B are new in each round.
NEW_BASIS: tuple[str, ...] = ("flex", "stack", "restart")


def wrap(method: FedAvg, config: RunConfig, num_clients: int | None) -> FedAvg:
    """`method` in the wrappers that `config` asks for; a :class:`UserError` where it cannot have them.

    Raises a :class:`ValueError` where privacy.epsilon is to find the noise, or somebody attacks, and `num_clients` is
    None.
    """
    if config.attack.kind != "none":
        _check_sends(method, config, "attack")
    if config.aggregation.rule != "mean":
        _check_sends(method, config, "aggregation")
    if replace(config.communication, budget_mb=None) != Communication():  # nothing sent passes no budget
        _check_sends(method, config, "communication")
    check_offsite(method, config)
    method = with_ranks(with_rule(with_half(method, config, num_clients), config), config)
    method = _compressed(attacked(method, config, num_clients), config)
    method = _private(robust(method, config), config, num_clients)
    return _secure(method, config) if config.communication.secure_sum else method


def _compressed(method: FedAvg, config: RunConfig) -> FedAvg:
    sent = config.communication
    if sent.error_feedback and sent.lora_aggregation in NEW_BASIS:
        rule = f"lora_aggregation={sent.lora_aggregation}"
        raise UserError(
            f"communication.error_feedback=true: with {rule} each round has its own A and B, and what an upload "
            "lost belongs to none of the next; leave one of them out"
        )
    if sent.download_dtype != "float32":
        codec = Codec(dtype=sent.download_dtype, scales=sent.scales)
        method = SmallDownloads(inner=method, codec=codec)
    if (sent.upload_dtype, sent.top_k) != ("float32", 1.0):
        codec = Codec(dtype=sent.upload_dtype, scales=sent.scales, top_k=sent.top_k)
        method = SmallUploads(inner=method, codec=codec, error_feedback=sent.error_feedback)
    return method


def _secure(method: FedAvg, config: RunConfig) -> FedAvg:
    """Refused is what needs a single upload: the server has none."""
    why = None
    if find(method, Private):
        why = "with privacy the server clips each upload"
    elif method.needs_all or method.changes("receive"):
        why = f"{_reader(method, config)} works on each upload by itself"
    elif config.federation.clients_per_round < 2:
        why = "the sum of federation.clients_per_round=1 is one upload"
    if why is not None:
        raise UserError(
            f"communication.secure_sum=true: {why}, and with a secure sum the server sees no single one; leave "
            "one of them out"
        )
    return SecureSum(inner=method, seed=config.seed)


def _reader(method: FedAvg, config: RunConfig) -> str:
    """What of a config makes the server need single uploads."""
    if config.aggregation.rule != "mean":
        return f"aggregation.rule={config.aggregation.rule}"
    if find(method, ProductRule):
        return f"lora_aggregation={config.communication.lora_aggregation}"
    if config.lora.ranks is not None:
        return f"the server under lora.ranks={config.lora.ranks}"
    return f"the server of {config.method.name}"


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
    if given or find(method, DpFedAvg):
        why = f"privacy.{given[0]}={getattr(privacy, given[0])}" if given else config.method.name
        raise UserError(f"{why} needs a bound on what one client sends; give --set privacy.clip=1.0")


def _check_sends(method: FedAvg, config: RunConfig, section: str) -> None:
    """Refuse what has no uploads, and the published rules, which are to stay what was published."""
    name = config.method.name
    if not method.sends:
        why = "has no clients" if method.pooled else "sends nothing"
        raise UserError(f"{section}.*: {name} {why}, so these settings change nothing; leave them out, or take fedavg")
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
