"""TRL's trainers of preferences, DPOTrainer and KTOTrainer, for rows that are tokens already and the base as reference.

TRL is imported where it is used: see `training/trl.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from packaging.version import Version
from transformers import PrinterCallback

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnyRow
from fedllm_bench.data.tokens import TokenRow

REFERENCE = "ref"  # their name for the adapter that they make
KTO_SINCE = Version("1.8")  # from here on KTOTrainer and its collator are in `trl.trainer`
Steps = Sequence[Sequence[Sequence[AnyRow]]]  # [step][micro-batch][row]


def _rows_of(steps: Steps) -> list[AnyRow]:
    return [row for micros in steps for micro in micros for row in micro]


def _parts(row: TokenRow) -> tuple[list[int], list[int]]:
    """The prompt, and what follows it: from the first counted token on."""
    cut = int(row.counted.argmax())
    return row.ids[:cut].tolist(), row.ids[cut:].tolist()


def as_pairs(steps: Steps) -> Any:
    """All pairs in their order, as DPOTrainer prepares them: the prompt, and what follows it in either sequence."""
    pairs = [[_parts(sequence) for sequence in row.sequences] for row in _rows_of(steps)]
    return Dataset.from_dict(
        {
            "prompt_ids": [chosen[0] for chosen, _ in pairs],
            "chosen_ids": [chosen[1] for chosen, _ in pairs],
            "rejected_ids": [rejected[1] for _, rejected in pairs],
        }
    )


def as_answers(steps: Steps) -> Any:
    """All answers in their order, as KTOTrainer prepares them: each with the answer before it in its micro-batch."""
    rows = _rows_of(steps)
    found = [_parts(row.sequences[0]) for row in rows]
    size = len(steps[0][0])
    before = [at - 1 if at % size else at + size - 1 for at in range(len(rows))]
    return Dataset.from_dict(
        {
            "prompt_ids": [prompt for prompt, _ in found],
            "completion_ids": [answer for _, answer in found],
            "KL_completion_ids": [found[at][1] for at in before],
            "label": [bool(vars(row)["is_desirable"]) for row in rows],
        }
    )


def make_preference_trainer(
    kind: type, peft_model: Any, tokenizer: Any, steps: Steps, local: Local, **others: Any
) -> Any:
    """A new trainer of a `kind` for the rows of `steps`, which prints nothing, with the base as its reference.

    Given a PEFT model, TRL takes a copy of the adapter that it finds as the reference: from round 2 on that is no
    longer the base. With B = 0 the copy changes nothing, and the reference is the base again.
    """
    trainer = kind(
        model=peft_model,
        processing_class=tokenizer,
        train_dataset=as_answers(steps) if local.loss == "kto" else as_pairs(steps),
        data_collator=collator(local),
        **others,
    )
    trainer.remove_callback(PrinterCallback)
    refer_to_base(peft_model)
    return trainer


def collator(local: Local) -> Any:
    """Pairs are cut already; a prompt with the answer of another row is not."""
    if local.loss == "kto":
        from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

        return DataCollatorForUnpairedPreference(pad_token_id=0, max_length=local.sequence_length)
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    return DataCollatorForPreference(pad_token_id=0)


def check_kto() -> None:
    """Raise a :class:`UserError` where the installed TRL has KTOTrainer among its experimental parts only."""
    if Version(version("trl")) < KTO_SINCE:
        raise UserError(
            f"ENGINE=trl: KTO takes TRL {KTO_SINCE} or newer, got {version('trl')}; "
            "pip install --upgrade trl, or take ENGINE=inprocess"
        )


def refer_to_base(peft_model: Any) -> None:
    """Let the trainer's reference add nothing to the base."""
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if f".lora_B.{REFERENCE}." in name:
                parameter.zero_()


def preference_arguments(local: Local, shared: dict[str, Any]) -> Any:
    """`local` in the words of TRL; `shared` is what all of its trainers take.

    Dropout is off by default; `train_block` draws none here either.
    """
    from trl import DPOConfig, KTOConfig

    options = {"beta": local.dpo_beta, "disable_dropout": True, "max_length": None, **shared}
    if local.loss == "kto":
        weights = {"desirable_weight": local.kto_desirable, "undesirable_weight": local.kto_undesirable}
        return KTOConfig(**weights, **options)
    return DPOConfig(loss_type=local.dpo_loss, **options)


@cache
def preference_trainer(loss: str) -> type:
    """TRL's trainer of this loss for rows that are tokens already, which it has no option to say."""
    from trl import DPOTrainer, KTOTrainer

    kind: Any = KTOTrainer if loss == "kto" else DPOTrainer

    class TokenTrainer(kind):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    return TokenTrainer
