"""A federated run with Flower's simulation, in the manner of its FlowerTune example. Run by peers.py.

Each call of a client loads the base, puts LoRA on it, writes the global adapter into it, makes a TRL trainer, trains
and sends its adapter; the server averages. Rows come in the order of this suite's plan, so that adapters can be
compared. The job is a JSON file (peers.py), whose path is the only argument; adapters and times go into its folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]


def rows_of(job: Job, round_num: int, client: int) -> dict[str, list[str]]:
    """What a client trains on in a round (0 is the first), as TRL takes it: prompts and completions in order."""
    rows = job["rows"][round_num][client]
    return {"prompt": [prompt for prompt, _ in rows], "completion": [answer for _, answer in rows]}


def trainer_settings(job: Job, round_num: int, folder: str) -> dict[str, Any]:
    """For SFTConfig; what is not here is as TRL has it, gradient checkpointing too."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "max_length": job["longest"],
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["micro_batch"],
        "gradient_accumulation_steps": job["accumulation"],
        "learning_rate": job["rates"][round_num],
        "lr_scheduler_type": "constant",
        "adam_beta1": job["betas"][0],
        "adam_beta2": job["betas"][1],
        "adam_epsilon": job["eps"],
        "weight_decay": job["weight_decay"],
        "max_grad_norm": job["clip"],
        "train_sampling_strategy": "sequential",
        "optim": "adamw_torch",
        "bf16": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def load_model(job: Job) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32")
    lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules=job["targets"],
                      task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(base, lora)


def train(job: Job, arrays: Any, round_num: int, client: int) -> Any:
    """The adapter of one client after its local training, as a dict of tensors."""
    import tempfile

    from datasets import Dataset, disable_progress_bars
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    model = load_model(job)
    set_peft_model_state_dict(model, arrays)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            train_dataset=Dataset.from_dict(rows_of(job, round_num, client)),
            args=SFTConfig(**trainer_settings(job, round_num, folder)),
        )
        trainer.train()
    return {name: tensor.detach().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def make_client_app(path: str) -> Any:
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def client_train(message: Any, context: Any) -> Any:
        import torch  # noqa: F401  # without it in memory Flower gives no tensors

        job = json.loads(Path(path).read_text(encoding="utf-8"))
        client = int(context.node_config["partition-id"])
        round_num = int(message.content["config"]["server-round"]) - 1
        adapter = train(job, message.content["arrays"].to_torch_state_dict(), round_num, client)
        metrics = MetricRecord({"num-examples": len(job["rows"][round_num][client])})
        return Message(content=RecordDict({"arrays": ArrayRecord(adapter), "metrics": metrics}), reply_to=message)

    return app


def make_server_app(path: str, out: Path, times: list[float], sizes: list[int]) -> Any:
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from safetensors.torch import load_file, save_file

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def server_main(grid: Any, context: Any) -> None:
        job = json.loads(Path(path).read_text(encoding="utf-8"))

        def note(server_round: int, arrays: Any) -> None:
            times.append(time.time())
            sizes.append(sum(len(array.data) for array in arrays.values()))
            save_file(arrays.to_torch_state_dict(), out / f"{server_round}.safetensors")

        clients = len(job["rows"][0])
        number = {"min_train_nodes": clients, "min_available_nodes": clients}
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, **number)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(load_file(job["start"])), num_rounds=len(job["rows"]),
                       evaluate_fn=note)  # fmt: skip

    return app


def main() -> None:
    path, out = sys.argv[1], Path(sys.argv[2])
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "HF_HUB_OFFLINE": "1"}
    from flwr.simulation import run_simulation

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    times, sizes = list[float](), list[int]()
    run_simulation(
        server_app=make_server_app(path, out, times, sizes),
        client_app=make_client_app(path),
        num_supernodes=len(job["rows"][0]),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": job["threads"], "include_dashboard": False},
        },
    )
    (out / "times.json").write_text(json.dumps({"times": times, "bytes": sizes}), encoding="utf-8")


if __name__ == "__main__":
    main()
