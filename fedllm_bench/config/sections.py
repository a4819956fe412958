"""Sections of a config on the model: the frozen base, and what of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.clock.section import Sampler
from fedllm_bench.config.config_uploads import CHANGES_BASE, Communication, Privacy, Strict, check_communication
from fedllm_bench.config.ranks import parsed


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice")
    return names


Count = Annotated[int, Field(ge=1, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)]
Quantization = Literal["none", "8bit", "4bit"]


@dataclass(frozen=True, kw_only=True)
class Model(Strict):
    """`name` is a base of benchmarks/bases, a hub id, a folder, a GGUF file, or "mini" for the embedded base.

    `adapter` is the folder of a PEFT adapter that is merged into the base before anything else. `quantization` is of
    the frozen base; `trainable` says whether an adapter is trained or every weight (docs/memory.md). `device_map`: how
    transformers spreads the base over the GPUs of this machine; "" puts it on one (docs/scaling.md).
    """

    name: Text
    dtype: Literal["float32", "bfloat16", "float16"]
    revision: Text | None = None
    adapter: Text | None = None
    quantization: Quantization = "none"
    trainable: Literal["adapter", "full"] = "adapter"
    device_map: Literal["", "auto", "balanced", "sequential"] = ""


@dataclass(frozen=True, kw_only=True)
class Lora(Strict):
    """`ranks`: those of the clients where they differ, "4,8" or "4:0.8,8:0.2" (docs/aggregation.md)."""

    rank: Count
    alpha: Count
    dropout: Fraction
    targets: Names
    dora: bool = False  # weight-decomposed adapters; clients are then trained one by one
    ranks: str | None = None


@dataclass(frozen=True, kw_only=True)
class Faults(Strict):
    """Injected faults (training/faults.py), none by default; `straggler_steps` is the share of steps they do."""

    dropout: Fraction = 0.0  # of the chosen clients, who do not answer
    stragglers: Share = 0.0  # of the clients who answer
    straggler_steps: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class Federation(Strict):
    """`patience`: after so many checks without a better validation loss the run ends, and the best round is what it
    leaves; 0 is off. A check is made every `check_every` rounds, on the share `validation` of each client's training
    rows, which nobody trains on then (docs/cost.md).
    """

    rounds: Count
    clients_per_round: Count
    weighting: Literal["examples", "uniform"]
    failure_limit: Fraction  # of a round's clients; where more have no finite answer, the run stops
    sampler: Sampler = "uniform"  # the others choose by the time that devices take (docs/clock.md)
    patience: Annotated[int, Field(ge=0, lt=2**31)] = 0
    check_every: Count = 1
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1

    def check(self, num_clients: int) -> None:
        """Raise a :class:`UserError` when a round would need more clients than the split has."""
        if self.clients_per_round > num_clients:
            raise UserError(
                f"federation.clients_per_round={self.clients_per_round}, but the split has {num_clients} "
                f"clients; give {num_clients} or fewer: --set federation.clients_per_round={num_clients}"
            )

    @property
    def kept_apart(self) -> float:
        """The share of training rows that nobody trains on."""
        return self.validation if self.patience else 0.0


@dataclass(frozen=True, kw_only=True)
class Ray(Strict):
    """Workers of engine=ray (docs/scaling.md): where clients are trained, not what; no part of a run's hash.

    `gpus_per_worker`: a share of one GPU, where there are GPUs; 0 means workers on cores all the same. `workers`: at
    most so many; 0 means as many as fit.
    """

    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] = 1.0
    workers: Annotated[int, Field(ge=0, lt=2**31)] = 0


@dataclass(frozen=True, kw_only=True)
class UsedPlugin(Strict):
    """A plugin that a run needs: its file, the file's sha256, and what it gives, such as ("METHODS:my_method",).

    `package`: name and version of the installed package that the file belongs to; "" for a file of the user's own.
    """

    name: Text
    sha256: Text
    package: str
    gives: Names


def without_method(plugins: Sequence[UsedPlugin]) -> tuple[UsedPlugin, ...]:
    """The plugins without what they give of methods; one that gives nothing else is not needed."""
    left = [replace(one, gives=tuple(name for name in one.gives if not name.startswith("METHODS:"))) for one in plugins]
    return tuple(one for one in left if one.gives)


def check_together(model: Model, lora: Lora, communication: Communication, engine: str, ray: Ray) -> None:
    """Raise a :class:`ValueError` of one line for settings that contradict each other."""
    check_communication(communication)
    if ray != Ray() and engine != "ray":
        given = "ray.workers" if ray.workers else "ray.gpus_per_worker"
        raise ValueError(
            f"{given}: it is of engine=ray, and the engine is {engine}; give --engine ray, or leave it out"
        )
    if model.quantization != "none" and model.adapter is not None:
        raise ValueError(
            f"model.adapter: it cannot be merged into a base of model.quantization={model.quantization}; write a whole "
            "model first: fedllm-bench merge RUN --out DIR, then MODEL=DIR without model.adapter"
        )
    if model.quantization != "none" and engine == "trl":
        raise ValueError(
            f"engine=trl: on a base of model.quantization={model.quantization} TRL trains adapters in bfloat16, so it "
            "is no reference; give engine=inprocess"
        )
    if model.trainable == "full":
        _check_full(model, lora, communication, engine)
    if model.device_map:
        _check_device_map(model, engine)
    if lora.dora and model.quantization == "8bit":
        raise ValueError(
            "model.quantization=8bit: PEFT has no lora.dora=true for these layers that can be used here; "
            "give model.quantization=4bit or none"
        )
    if lora.dora and communication.aggregation_error:
        raise ValueError(
            "communication.aggregation_error: it measures B A, and lora.dora=true scales each row of the weights too; "
            "leave one of them out"
        )
    _check_adapters(lora, communication)
    _check_base_changes(model, communication)


def check_stopping(federation: Federation, privacy: Privacy, variant: str) -> None:
    """Raise a :class:`ValueError` of one line where `federation.patience` is missing, or cannot be."""
    if not federation.patience:
        for key, default in (("check_every", 1), ("validation", 0.1)):
            if (got := getattr(federation, key)) != default:
                raise ValueError(
                    f"federation.{key}={got}: it belongs to federation.patience, which is 0, so that nothing is "
                    "checked; give federation.patience=3, or leave it out"
                )
        return
    given = f"federation.patience={federation.patience}"
    if privacy.clip is not None:
        raise ValueError(
            f"{given}: each check reads validation rows of all clients, and the privacy.* guarantee does not count "
            "that; leave one of them out"
        )
    if variant == "released":
        raise ValueError(f"{given}: variant=released is as published, without an early stop; give variant=paper")


def _check_base_changes(model: Model, communication: Communication) -> None:
    """Refuse rules that add to the weights of the base where nothing can be added."""
    rule = communication.lora_aggregation
    if rule in CHANGES_BASE and (model.quantization != "none" or model.device_map):
        other = f"device_map={model.device_map}" if model.device_map else f"quantization={model.quantization}"
        raise ValueError(
            f"communication.lora_aggregation={rule}: it adds to the weights of the base, which model.{other} does not "
            "allow; leave one of them out, or give lora_aggregation=flex"
        )


def _check_adapters(lora: Lora, communication: Communication) -> None:
    """Refuse what is of A and B alone where there is more, and what is of B A where no B comes."""
    rule = communication.lora_aggregation
    if lora.dora and rule != "mean":
        raise ValueError(
            f"communication.lora_aggregation={rule}: it combines A and B alone, and lora.dora=true has a third part; "
            "leave one of them out"
        )
    if lora.ranks is not None:
        parsed(lora.ranks, lora.rank)
        if lora.dora:
            raise ValueError(
                f"lora.ranks={lora.ranks}: ranks are of A and B, and lora.dora=true has a third part; leave one out"
            )
    if rule == "share_a" and communication.aggregation_error:
        raise ValueError(
            "communication.aggregation_error: with lora_aggregation=share_a each B stays with its client, and there is "
            "no mean of B A; leave one of them out"
        )
    if rule != "fair" and communication.fair_lambda != Communication().fair_lambda:
        raise ValueError(
            f"communication.fair_lambda: it belongs to lora_aggregation=fair, and the rule is {rule}; leave it out"
        )


def _check_full(model: Model, lora: Lora, communication: Communication, engine: str) -> None:
    """Refuse what is of adapters only."""
    other = {
        f"model.quantization={model.quantization}": model.quantization != "none",
        "lora.dora=true": lora.dora,
        f"lora.ranks={lora.ranks}": lora.ranks is not None,
        f"communication.lora_aggregation={communication.lora_aggregation}": communication.lora_aggregation != "mean",
        "communication.aggregation_error=true": communication.aggregation_error,
        f"engine={engine}": engine == "trl",
    }
    given = [name for name, is_given in other.items() if is_given]
    if given:
        raise ValueError(
            f"model.trainable=full trains every weight, and {given[0]} is for adapters; leave one of them out"
        )


def _check_device_map(model: Model, engine: str) -> None:
    """Refuse what was not made for a base over several GPUs."""
    other = {
        f"engine={engine}": engine != "inprocess",
        "model.trainable=full": model.trainable == "full",
        f"model.quantization={model.quantization}": model.quantization != "none",
        f"model.adapter={model.adapter}": model.adapter is not None,
    }
    given = [name for name, is_given in other.items() if is_given]
    if given:
        raise ValueError(
            f"model.device_map={model.device_map}: a base over several GPUs goes with engine=inprocess, adapters, a "
            f"base that is not quantised, and no model.adapter, but got {given[0]}; leave one of them out"
        )
