"""The reference engine: the client step of `train_block` on a trainer of TRL's, a new one for each client.

Slow, and there to be compared with: it shares the plan of rows and the methods with `train_block`, and nothing
else. Model, LoRA layers, padding, loss, accumulation, clipping and optimiser are those of transformers, PEFT, TRL
and torch. Losses and adapters agree up to rounding while `lora.dropout` is 0. With dropout they do not: PEFT draws
its masks from torch's global generator, so there they are another function of (seed, round, client).

TRL itself is imported where it is used, inside `undisturbed`: importing its trainer draws from Python's generator.
"""

from __future__ import annotations

import logging
import random
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import moved_to
from fedllm_bench.config import base_model
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import AnyRow
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.client_round import Block, ClientResult, ClientTask, MapBlocks, PhaseChain
from fedllm_bench.training.losses.trl_trainers import (
    REFERENCE,
    Steps,
    check_kto,
    make_preference_trainer,
    preference_arguments,
    preference_trainer,
)
from fedllm_bench.training.model.adapter import merged
from fedllm_bench.training.model.base import load_base, load_settings
from fedllm_bench.training.model.carried import Carried, carrying, under_peft
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import passes_of
from fedllm_bench.training.trl_client import NotFinite, TrainedClient, adapter_parameters, put

log = logging.getLogger(__name__)
DROPOUT = 2  # the purpose of a random stream, beside those of `batches`
OPTIMIZERS = {"adamw": "adamw_torch", "sgd": "sgd"}  # our names -> those of transformers


def reference(model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """The engine `trl`. It loads the base once more, without our layers, onto the device of `model`.

    Raises a :class:`UserError` where several GPUs are visible, and for KTO where TRL is too old.
    """
    if config.local.loss == "kto":
        check_kto()
    if model.device.type == "cuda" and torch.cuda.device_count() > 1:
        raise UserError("ENGINE=trl: TRL takes one GPU in one process; set CUDA_VISIBLE_DEVICES=0")
    log.warning("engine trl is the slow reference, for comparison: one client after another, a trainer for each")
    peft_model = load_peft(model, config)

    carried = Carried()

    def map_blocks(message: Message, blocks: Iterable[Block], local: Local) -> Iterable[list[ClientResult]]:
        change = message.get("residual")
        message = moved_to(model.device, {key: tree for key, tree in message.items() if key != "residual"})
        layers = {} if change is None else under_peft(model.layers, peft_model)
        for tasks in blocks:
            with nullcontext() if change is None else carrying(layers, change, carried):
                results = [train_client(peft_model, model.tokenizer, method, message, task, local) for task in tasks]
            yield results

    return map_blocks


def load_peft(model: LoraModel, config: RunConfig) -> Any:
    """The base of the run under plain PEFT, in the type and on the device of `model`.

    The base's own dropout is off: a trainer switches it on, and `train_block` leaves the frozen base alone.
    """
    folder = base_model.locate(config.model.name, config.model.revision)
    settings = load_settings(folder, config.model.name)
    for name, value in vars(settings).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(settings, name, 0.0)
    base = load_base(folder, config.model.name, model.base.dtype, config=settings)
    if config.model.adapter is not None:
        base = merged(base, config.model.adapter)
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(model.targets),
        fan_in_fan_out=model.transposed,
        task_type="CAUSAL_LM",
        use_dora=config.lora.dora,
    )
    with undisturbed():
        return get_peft_model(base.to(model.device), lora)


def train_client(
    peft_model: Any, tokenizer: Any, method: FedAvg, message: Message, task: ClientTask, local: Local
) -> ClientResult:
    """Local training of one client, all its phases, from `message`, whose trees lie on the model's device.

    The global random generators are left as they were. Raises a :class:`ValueError` where PEFT's tensors have
    other names than those of the message.
    """
    chain = PhaseChain(method, [task])
    for phase_method, (part,) in chain:
        chain.add([_train_phase(peft_model, tokenizer, phase_method, message, part, local)])
    return chain.results[0]


def _train_phase(
    peft_model: Any, tokenizer: Any, method: FedAvg, message: Message, task: ClientTask, local: Local
) -> ClientResult:
    known = moved_to(peft_model.device, task.known)
    start, parameters = method.start(message, known), adapter_parameters(peft_model)
    put(parameters, start)
    y = {name: parameters[name] for name in start}
    client = TrainedClient(method, message, known, local, y=y, done=task.done)
    failure = None
    if task.steps:
        with undisturbed(), tempfile.TemporaryDirectory() as folder:
            failure = _train(peft_model, tokenizer, client, task, folder)
    return client.result(task, failure)


def _train(peft_model: Any, tokenizer: Any, client: TrainedClient, task: ClientTask, folder: str) -> str | None:
    """All local steps of a client by a new trainer, which may write into `folder`; why it failed, if it did."""
    steps = planned_rows(task, client.local)
    words = [DROPOUT, task.seed, task.round_num, task.client, *([task.done] if task.done else [])]
    seed = int(np.random.default_rng(words).integers(2**31))
    use_cpu = peft_model.device.type == "cpu"
    args = arguments(client.local, steps, output_dir=folder, seed=seed, use_cpu=use_cpu)
    kind, local = client_trainer(client.local.loss), client.local
    if local.loss == "sft":
        trainer = make_trainer(kind, peft_model, tokenizer, steps, args=args, client=client)
    else:
        trainer = make_preference_trainer(kind, peft_model, tokenizer, steps, local, args=args, client=client)
    trainer.add_callback(AfterStep(client))
    try:
        trainer.train()
    except NotFinite as error:
        return str(error)
    finally:
        unpatch(peft_model)
    return None


def unpatch(peft_model: Any) -> None:
    """Remove what a trainer put over the base's own forward, and its reference; the next would add to them."""
    vars(peft_model.get_base_model()).pop("forward", None)
    if REFERENCE in peft_model.peft_config:
        peft_model.delete_adapter(REFERENCE)


def planned_rows(task: ClientTask, local: Local) -> list[list[list[AnyRow]]]:
    """The rows of a task, those of a step by length: [step][micro-batch][row].

    Under KTO micro-batches are those of the plan, in their order: its loss depends on which rows share one.
    """
    if local.loss == "kto":
        return [[[task.rows[task.row_numbers[row]] for row in micro] for micro in step] for step in task.steps]
    steps = range(len(task.steps))
    return [[[each.row for each in rows] for rows in passes_of([task], number, None)] for number in steps]


def as_dataset(steps: Steps) -> Any:
    """All rows in their order, as SFTTrainer prepares them."""
    rows = [row for micros in steps for micro in micros for one in micro for row in one.sequences]
    labels = [np.where(row.counted, row.ids, -100).tolist() for row in rows]
    return Dataset.from_dict({"input_ids": [row.ids.tolist() for row in rows], "labels": labels})


def make_trainer(kind: type, peft_model: Any, tokenizer: Any, steps: Steps, **others: Any) -> Any:
    """A new SFTTrainer, or a `kind` of it, for the rows of `steps`, which prints nothing."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    trainer = kind(
        model=peft_model,
        processing_class=tokenizer,
        train_dataset=as_dataset(steps),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),  # its own wants a padding token
        **others,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def arguments(local: Local, steps: Steps, **others: Any) -> Any:
    """`local` in the words of TRL: the rows in their order, a constant rate, nothing logged or saved."""
    from trl import SFTConfig

    if local.loss != "sft":
        return preference_arguments(local, {**_shared(local, steps), **others})
    return SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **_shared(local, steps), **others)


def _shared(local: Local, steps: Steps) -> dict[str, Any]:
    """What both kinds of trainers take."""
    return {
        "max_steps": len(steps),
        "per_device_train_batch_size": len(steps[0][0]),
        "gradient_accumulation_steps": len(steps[0]),
        "train_sampling_strategy": "sequential",
        "bf16": False,  # True would be autocast; the base has its type already
        "optim": OPTIMIZERS[local.optimizer],
        "learning_rate": local.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": local.beta1,
        "adam_beta2": local.beta2,
        "adam_epsilon": local.eps,
        "weight_decay": local.weight_decay,
        "max_grad_norm": local.clip,
        "gradient_checkpointing": local.gradient_checkpointing,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


@cache
def client_trainer(loss: str = "sft") -> type:
    """TRL's trainer with a method's hooks. Gradients are corrected in `training_step`: in transformers 5 the callback
    `on_pre_optimizer_step` comes after clipping."""
    from trl import SFTTrainer

    kind: Any = SFTTrainer if loss == "sft" else preference_trainer(loss)

    class ClientTrainer(kind):  # type: ignore[misc]
        def __init__(self, *, client: TrainedClient, **options: Any) -> None:
            super().__init__(**options)
            self.client = client

        def training_step(self, *args: Any, **options: Any) -> Tensor:
            loss: Tensor = super().training_step(*args, **options)
            self.client.after_backward(loss)
            if self.accelerator.sync_gradients:
                self.client.before_clipping()
            return loss

    return ClientTrainer


class AfterStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, client: TrainedClient) -> None:
        self.client = client

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.client.after_step()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Behind the block the global generators are as before it: trainers seed them, PEFT draws from torch's."""
    python, old = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that TRL and PEFT themselves use
            yield
    finally:
        random.setstate(python)
        np.random.set_state(old)  # noqa: NPY002
