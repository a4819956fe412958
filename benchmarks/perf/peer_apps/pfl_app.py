"""A federated run with pfl-research's simulated backend, as its benchmark of language models. Run by peers.py.

One base with LoRA under its PyTorchModel, FederatedAveraging, rows padded to the longest length as in that benchmark.
The job is a JSON file (peers.py), whose path is the first argument; times go into the folder that is the second. Each
round takes the rows of the first one. The loss is pfl's: a mean of micro-batches' means, so adapters are not compared.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]


def padded(rows: Sequence[tuple[list[int], int]], longest: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and labels of rows of (ids, tokens of the prompt), all of `longest` tokens; -100 where no loss is counted."""
    ids = [[*own, *[0] * (longest - len(own))] for own, _ in rows]
    labels = [[*[-100] * prompt, *own[prompt:], *[-100] * (longest - len(own))] for own, prompt in rows]
    return ids, labels


def tokenised(tokenizer: Any, rows: Sequence[Sequence[str]], longest: int) -> list[tuple[list[int], int]]:
    found = []
    for prompt, answer in rows:
        first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        found.append(([*first, *second, tokenizer.eos_token_id][:longest], len(first)))
    return found


def make_model(job: Job) -> Any:
    """The base with LoRA, and the two methods that pfl asks of a module."""
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32")
    lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules=job["targets"],
                      task_type="CAUSAL_LM")  # fmt: skip
    peft = get_peft_model(base, lora)
    set_peft_model_state_dict(peft, load_file(job["start"]))

    class PflModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.peft = peft

        def loss(self, ids: Any, labels: Any, is_eval: bool = False) -> Any:
            return self.peft(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels, use_cache=False).loss

        def metrics(self, ids: Any, labels: Any, is_eval: bool = False) -> Any:
            return {}

    return PflModel()


def make_users(job: Job) -> dict[str, Any]:
    """The rows of each client as pfl takes them."""
    import torch
    from pfl.data.dataset import Dataset
    from transformers import AutoTokenizer

    tokenizer, users = AutoTokenizer.from_pretrained(job["model"]), {}
    for client, rows in enumerate(job["rows"][0]):
        arrays = padded(tokenised(tokenizer, rows, job["longest"]), job["longest"])
        users[str(client)] = Dataset([torch.tensor(array) for array in arrays], user_id=str(client))
    return users


def with_optimisers(job: Job, module: Any) -> Any:
    """AdamW at the clients, and at the server the mean as it is."""
    import torch
    from pfl.model.pytorch import PyTorchModel

    adam = functools.partial(torch.optim.AdamW, betas=tuple(job["betas"]), eps=job["eps"],
                             weight_decay=job["weight_decay"], fused=True)  # fmt: skip
    return PyTorchModel(
        model=module,
        local_optimizer_create=lambda parameters, lr: adam([p for p in parameters if p.requires_grad], lr=lr),
        central_optimizer=torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1.0),
    )


def make_clock(times: list[float]) -> Any:
    """A callback that notes when a round has ended."""
    from pfl.callback.base import TrainingProcessCallback
    from pfl.metrics import Metrics

    class Times(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            times.append(time.time())
            return False, Metrics()

    return Times()


def train(job: Job, module: Any, users: Mapping[str, Any], times: list[float]) -> None:
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams

    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    rounds = {"central_num_iterations": len(job["rows"]), "evaluation_frequency": 10**6}
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(train_cohort_size=len(users), val_cohort_size=0, **rounds),
        backend=SimulatedBackend(training_data=data, val_data=data, postprocessors=[]),
        model=with_optimisers(job, module),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=job["rates"][0],
            local_num_epochs=1,
            local_batch_size=job["micro_batch"],
            local_max_grad_norm=job["clip"],
            grad_accumulation_steps=job["accumulation"],
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=job["micro_batch"]),
        callbacks=[make_clock(times)],
    )


def main() -> None:
    import torch
    from pfl.model.pytorch import PyTorchModel  # noqa: F401  # data sets of tensors want it loaded

    job, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    torch.set_num_threads(job["threads"])
    users, module = make_users(job), make_model(job)
    times = [time.time()]
    train(job, module, users, times)
    size = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    (out / "times.json").write_text(json.dumps({"times": times, "bytes": [size] * len(times)}), encoding="utf-8")


if __name__ == "__main__":
    main()
