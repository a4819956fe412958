"""The shape of the published training loop, in today's libraries: what it does for each client and round.

For each client of a round it writes the global adapter into the model, tokenises the client's rows, makes a new
Trainer, trains, and copies the adapter out. Written from its description. Left out, since a CPU has none of it or it
would train nothing there: the base in int8, and gradient checkpointing. The loss is today's mean over the counted
tokens of a step, so that adapters can be compared; the published code takes the mean of the micro-batches' means.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local
from fedllm_bench.training.trl_client import CPU

if TYPE_CHECKING:
    from fedllm_bench.benchmarks.perf.cases import Round, TextRow, Work


def train(work: Work) -> list[Tree]:
    """The adapters of all clients."""
    from fedllm_bench.training.trl import undisturbed

    model, ends = work.peft_model, []
    for task in work.tasks:
        _write(model, work.start)
        with undisturbed(), tempfile.TemporaryDirectory() as folder:
            rows = tokenised([work.texts[i] for i in work.planned(task)], work.model.tokenizer, work.case.longest)
            make_trainer(model, rows, work.local, work.round, folder).train()
        vars(model.get_base_model()).pop("forward", None)
        ends.append(_read(model))
    model.eval()
    return ends


def _write(model: Any, adapter: Tree) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, copy.deepcopy(adapter))


def _read(model: Any) -> Tree:
    from peft import get_peft_model_state_dict

    found: Tree = copy.deepcopy(get_peft_model_state_dict(model))
    return {name: tensor.detach() for name, tensor in found.items()}


def tokenised(texts: Sequence[TextRow], tokenizer: Any, longest: int) -> Any:
    """A data set of `ids` and `prompts` (tokens of the prompt), each a list with one entry for each answer."""
    from datasets import Dataset

    from fedllm_bench.benchmarks.perf.cases import encoded

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        pairs = [encoded(tokenizer, row["prompt"], answer, longest) for answer in row["answers"]]
        return {"ids": [ids for ids, _ in pairs], "prompts": [prompt for _, prompt in pairs]}

    texts_of = {"prompt": [row.prompt for row in texts], "answers": [list(row.answers) for row in texts]}
    return Dataset.from_dict(texts_of).map(encode, remove_columns=list(texts_of))


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A micro-batch of sequences side by side, (B, T): ids, mask, and labels with -100 where no loss is counted."""
    ids = [own for row in rows for own in row["ids"]]
    prompts = [prompt for row in rows for prompt in row["prompts"]]
    length = max(map(len, ids))
    batch = np.zeros((len(ids), length), np.int64)
    labels = np.full((len(ids), length), -100, np.int64)
    for i, (own, prompt) in enumerate(zip(ids, prompts, strict=True)):
        batch[i, : len(own)] = own
        labels[i, prompt : len(own)] = own[prompt:]
    mask = np.arange(length) < np.array([len(own) for own in ids])[:, None]
    made = {"input_ids": batch, "attention_mask": mask.astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(array) for name, array in made.items()}


def make_trainer(model: Any, rows: Any, local: Local, of_round: Round, folder: str) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    args = TrainingArguments(
        output_dir=folder,
        use_cpu=model.device == CPU,
        max_steps=of_round.steps,
        per_device_train_batch_size=of_round.micro_batch,
        gradient_accumulation_steps=of_round.accumulation,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        learning_rate=local.lr,
        lr_scheduler_type="constant",
        adam_beta1=local.beta1,
        adam_beta2=local.beta2,
        adam_epsilon=local.eps,
        weight_decay=local.weight_decay,
        max_grad_norm=local.clip,
        gradient_checkpointing=local.gradient_checkpointing,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    kind = Trainer if local.loss == "sft" else pair_trainer()
    trainer = kind(model=model, args=args, train_dataset=rows, data_collator=padded)
    if local.loss == "dpo":
        trainer.beta, trainer.model_accepts_loss_kwargs = local.dpo_beta, False
    trainer.remove_callback(PrinterCallback)
    return trainer


@cache
def pair_trainer() -> type:
    """A Trainer of DPO which asks the reference, the base alone, in each step, as a trainer made anew must."""
    from transformers import Trainer

    class PublishedPairTrainer(Trainer):  # type: ignore[misc]
        beta = 0.1

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
            labels = inputs.pop("labels")
            policy = log_likelihoods(model, inputs, labels)
            with torch.no_grad(), model.disable_adapter():
                reference = log_likelihoods(model, inputs, labels)
            ratios_P2 = (policy - reference).view(-1, 2)
            return -F.logsigmoid(self.beta * (ratios_P2[:, 0] - ratios_P2[:, 1])).mean()

    return PublishedPairTrainer


def log_likelihoods(model: Any, inputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Summed over the counted tokens of each row, shape (B,), in nats."""
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    nll = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return -nll.view(len(labels), -1).sum(1)
