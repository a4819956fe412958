"""A run's adapter merged into its base: a plain model of transformers, which needs neither PEFT nor this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config import base_model, starting
from fedllm_bench.config.bases.labels import label
from fedllm_bench.config.bases.terms import texts_to_carry
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.runs.folder import GIVE, ROUNDS, RunFaults, RunFolder

ABOUT, GLOBAL = "merged_from.json", "global"


class RunToMerge(RunFolder):
    """A folder that may be no run at all."""

    faults = RunFaults(absent=f"RUN={{run}} is no run folder; {GIVE}")


@dataclass(frozen=True)
class TrainedRun:
    """A run folder after training, and one of its adapters; `client` where each client has its own."""

    run: RunFolder
    adapter: Path
    client: str | None

    @property
    def config(self) -> RunConfig:
        return self.run.config


def open_trained(folder: Path, client: str | None = None) -> TrainedRun:
    """The adapter of a run; that of `client` where each has its own, GLOBAL for the one beside them.

    Raises a :class:`UserError` for what is no run folder, for a run that has not trained to its end, and where a
    client is named that has no adapter, or none is named and each has one.
    """
    run = RunToMerge(folder)
    _ = run.config, run.environment  # neither is there where it is no run folder
    if run.config.model.trainable == "full":
        what = "whole layers" if run.config.offsite.is_on else "every weight"
        raise UserError(
            f"RUN={folder}: it trained {what}, so there is nothing to merge; what it leaves is a plain model "
            f"already: {folder / 'model'} (under local: {folder / 'models'}/<client>)"
        )
    if run.adapters:
        if client == GLOBAL and run.adapter is not None and GLOBAL not in run.adapters:
            return TrainedRun(run, run.adapter, None)
        return TrainedRun(run, run.adapters[_folder_of(run, client)], client)
    if run.adapter is None:
        raise UserError(f"RUN={folder}: the run has not trained to its end; {run.again('merge')}")
    if client is not None:
        raise UserError(f"--client {client}: under {run.method} all clients share one adapter; leave it out")
    return TrainedRun(run, run.adapter, None)


def _folder_of(run: RunFolder, client: str | None) -> str:
    """The name of a client's folder, by its id or by the folder's own name."""
    known = list(run.adapters)
    if client is None:
        some = ", ".join(known[:3])
        unseen = f", or that of unseen users: --client {GLOBAL}" if run.adapter else ""
        raise UserError(
            f"RUN={run.path}: each client has an adapter of its own; choose one: --client ID (as {some}){unseen}"
        )
    if client in known:
        return client
    numbers = {
        name: number
        for record in files.read_jsonl(run.path / ROUNDS)
        for name, number in zip(record["client_ids"], record["clients"], strict=True)
    }
    name = f"c{numbers[client]:06d}" if client in numbers else ""  # an id that cannot name a folder
    if name not in known:
        unseen = f"or {GLOBAL}, the adapter of unseen users" if run.adapter else ""
        raise unknown("client with an adapter", client, known, unseen)
    return name


def merge(trained: TrainedRun, out: Path) -> Path:
    """Write base plus adapter, the tokenizer and the run's chat template into the new folder `out`.

    A starting adapter is part of the base, and a quantised base is merged as it was before it was quantised. Weights
    have the type that the run trained on (`model.dtype`), as safetensors. The licence and notices of the base go with
    them. Raises a :class:`UserError` where `out`
    exists, and where the base is not the one of the run any more.
    """
    import torch

    from fedllm_bench.training.model.adapter import merged
    from fedllm_bench.training.model.base import load_base, load_tokenizer, prepare_to_chat, save_plain

    check_merges(trained)
    if out.exists():
        raise UserError(f"OUT={out} exists; give a new folder")
    source = base_folder(trained)
    base = trained.config.model
    model = load_base(source, base.name, getattr(torch, base.dtype))
    if base.adapter is not None:
        model = merged(model, base.adapter)
    model = merged(model, str(trained.adapter), "the adapter of RUN")
    tokenizer = load_tokenizer(source, base.name)
    prepare_to_chat(model, tokenizer, source_for(trained.config.data.template, tokenizer, base.name))
    save_plain(out, model, tokenizer, {ABOUT: _about(trained)}, texts_to_carry(base.name, source))
    return out


def check_merges(trained: TrainedRun) -> None:
    """Raise a :class:`UserError` for a kind of adapter that no weights of a plain model can stand for."""
    adapter = trained.config.adapter
    if adapter.kind in ("lora", "ia3"):
        return
    what = "no plain model has the layers of" if adapter.kind == "bottleneck" else "no weights stand for"
    raise UserError(
        f"RUN={trained.run.path}: {what} {adapter.in_words}, so it cannot be merged; {trained.adapter / 'README.md'} "
        "says how it is loaded on its base"
    )


def base_folder(trained: TrainedRun) -> Path:
    """Where the run's base lies; a :class:`UserError` where its files or the starting adapter's changed since."""
    model = trained.config.model
    _check_place(trained)
    folder = base_model.locate(model.name, model.revision)
    if starting.base_fingerprint(folder, model.adapter, model.quantization) != trained.run.base_hash:
        raise UserError(
            f"MODEL={model.name}: its files are not those that {trained.run.path} was trained on; restore them"
        )
    return folder


def _check_place(trained: TrainedRun) -> None:
    """Older runs kept relative paths: one must not be looked up on the hub, though it may look like an id of it.

    Of a model of the hub the adapter names the folder in the cache instead.
    """
    name = trained.config.model.name
    folder = files.at_home(name)
    made_on = starting.adapter_settings(trained.adapter).get("base_model_name_or_path")
    if made_on == str(folder) and not folder.is_absolute() and not folder.is_dir():
        raise UserError(
            f"MODEL={name} was a folder below the one that {trained.run.path} was started in, and is not below "
            f"{Path.cwd()}; go there and give the command again"
        )


def _about(trained: TrainedRun) -> dict[str, object]:
    config = trained.config
    return {
        "dataset": config.name,
        "method": config.method.name,
        "seed": config.seed,
        "client": trained.client,
        "run": trained.run.path.resolve().name,
        "base": config.model.name,
        "base_label": label(config.model.name),
        "quantization": config.model.quantization,
        **trained.run.environment["data"],
    }
