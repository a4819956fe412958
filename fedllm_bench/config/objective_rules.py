"""What the settings of an objective and of the training rows must fit: each other, the task and the engine."""

from __future__ import annotations

from typing import Literal, Protocol

from fedllm_bench.config.added import ADDED

OBJECTIVES_OF = {"sft": ("sft",), "preference": ("dpo", "kto")}  # by the task of a split
OTHER = {"sft": "preferences, as chatbot_pa", "preference": "conversations, as aya"}  # data sets of the other task
WITHOUT_REFERENCE = ("simpo", "orpo")  # kinds of local.dpo_loss
# Constants of one objective -> the settings that read them. Presets give dpo_beta and dpo_loss=sigmoid for all.
READ_BY = {
    "dpo_loss": {"loss": "dpo"},
    "simpo_gamma": {"loss": "dpo", "dpo_loss": "simpo"},
    "kto_desirable": {"loss": "kto"},
    "kto_undesirable": {"loss": "kto"},
}
UNSET = {"dpo_loss": "sigmoid", **ADDED["local"]}


class RowSettings(Protocol):
    """What is read of the section `data`."""

    @property
    def task(self) -> Literal["sft", "preference"]: ...
    @property
    def shuffle_users(self) -> bool: ...
    @property
    def swap_answers(self) -> bool: ...
    @property
    def split_pairs(self) -> bool: ...
    @property
    def canaries(self) -> int: ...
    @property
    def canary_repeats(self) -> int: ...


class LossSettings(Protocol):
    """What is read of the section `local`."""

    @property
    def loss(self) -> str: ...
    @property
    def dpo_loss(self) -> str: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def simpo_gamma(self) -> float: ...
    @property
    def kto_desirable(self) -> float: ...
    @property
    def kto_undesirable(self) -> float: ...


def check_objective(data: RowSettings, local: LossSettings, engine: str) -> None:
    """Raise a :class:`ValueError` of one line for settings that contradict each other."""
    allowed = OBJECTIVES_OF[data.task]
    if local.loss not in allowed:
        needed = " or ".join(repr(name) for name in allowed)
        raise ValueError(
            f"local.loss: got {local.loss!r}, but data.task {data.task!r} needs {needed}; give that, or take a data "
            f"set of {OTHER[data.task]}"
        )
    if local.loss == "kto":
        _check_kto(local)
    elif data.split_pairs:
        raise ValueError("data.split_pairs=true: it is for local.loss=kto, which needs no pairs; give both, or neither")
    if data.split_pairs and data.shuffle_users:
        raise ValueError("data.split_pairs: data.shuffle_users=true deals all answers anyway; leave one of them out")
    if local.loss == "dpo" and local.dpo_loss in WITHOUT_REFERENCE and engine == "trl":
        raise ValueError(
            f"local.dpo_loss={local.dpo_loss}: TRL has its trainer among its experiments, and engine=trl does not take "
            "it; give engine=inprocess"
        )
    if local.loss != "sft":
        _check_read(local)
    _check_canaries(data)


def _check_read(local: LossSettings) -> None:
    """Refuse a constant of another objective for preferences: it would change nothing.

    Where rows are conversations, a grid may give it for other data sets.
    """
    for key, readers in READ_BY.items():
        other = [
            f"local.{name}={getattr(local, name)}" for name, value in readers.items() if getattr(local, name) != value
        ]
        value = getattr(local, key)
        if other and value != UNSET[key]:
            needed = " and ".join(f"local.{name}={wanted}" for name, wanted in readers.items())
            raise ValueError(f"local.{key}={value}: it belongs to {needed}, and here is {other[0]}; leave it out")


def _check_kto(local: LossSettings) -> None:
    if local.micro_batch < 2:
        raise ValueError(
            "local.micro_batch=1: local.loss=kto estimates a divergence from the answers of other rows of a "
            "micro-batch; give 2 or more"
        )
    if not local.kto_desirable and not local.kto_undesirable:
        raise ValueError(
            "local.kto_desirable=0 and local.kto_undesirable=0: nothing is left to learn; give one of them"
        )


def _check_canaries(data: RowSettings) -> None:
    if not data.canaries and data.canary_repeats > 1:
        raise ValueError(
            f"data.canary_repeats={data.canary_repeats}: data.canaries is 0, so that nothing is repeated; "
            "give data.canaries too, or leave it out"
        )
    if not data.canaries:
        return
    if data.task != "sft":
        raise ValueError(
            f"data.canaries={data.canaries}: secrets are planted in conversations, data.task is {data.task}; give 0"
        )
    if data.swap_answers:
        raise ValueError("data.canaries: data.swap_answers=true would take their answers away; leave one of them out")
    if data.shuffle_users:
        raise ValueError(
            "data.canaries: a canary is of one client, and data.shuffle_users=true deals its rows to others; leave one "
            "of them out"
        )
