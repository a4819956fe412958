"""Who answers: a run's base, its global adapter, or named clients; any adapter; any model. One base stays resident."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.common.trees import Tree
from fedllm_bench.config import base_model, starting
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import Lora, Model, Ray
from fedllm_bench.data.clients import sample_by_size
from fedllm_bench.evaluation.answering.budget import batch_tokens
from fedllm_bench.evaluation.answering.merged_adapter import answering_with, using_merged
from fedllm_bench.metrics.batches import ALL
from fedllm_bench.runs import merging
from fedllm_bench.runs.cell import split_of_run
from fedllm_bench.runs.folder import GIVE, RESULTS, RunFolder, folder_name
from fedllm_bench.training.cluster.computing import UnderAdapters, Workers
from fedllm_bench.training.model.base import load_tokenizer
from fedllm_bench.training.model.kinds.loading import read_tensors
from fedllm_bench.training.model.kinds.settings import kind_of
from fedllm_bench.training.model.lora_model import LORA, LoraModel, load_model

log = logging.getLogger(__name__)
BASE, GLOBAL, CLIENT = "base", merging.GLOBAL, "client-"
NAMED_CLIENTS = 5  # of a run whose clients have adapters of their own
PLAIN = {  # settings of LoRA as we know it; an adapter that has others is merged by PEFT instead
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "layers_to_transform": None,
    "target_parameters": None,
    "lora_bias": False,
    "exclude_modules": None,
    "layers_pattern": None,
    "ensure_weight_tying": False,
}


@dataclass(frozen=True)
class AnswerSide:
    """`adapter` is None for the base alone; with `by_peft` its weights are merged into a base of their own."""

    name: str
    adapter: Path | None = None
    by_peft: bool = False

    @property
    def fingerprint(self) -> str:
        return "" if self.adapter is None else starting.adapter_fingerprint(self.adapter)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The base of all sides. `template` is a name; `lora` describes the adapters, or `adapter` does those of another
    kind; `base_hash` names what is frozen.
    """

    model: Model
    lora: Lora
    template: str
    sides: tuple[AnswerSide, ...]
    base_hash: str
    adapter: AdapterKind = LORA


def open_run(folder: Path) -> RunFolder:
    """Raises a :class:`UserError` for what is no run folder, and for a run that has not ended."""
    return _open(folder).run


def _open(folder: Path) -> merging.TrainedRun:
    if not folder.is_dir():
        raise UserError(f"RUN={folder}: no such folder; {GIVE}")
    trained = merging.open_trained(folder, min(RunFolder(folder).adapters, default=None))
    if not trained.run.has(RESULTS):
        raise UserError(f"RUN={folder}: the run has not ended; {trained.run.again('answer')}")
    return trained


def subject_of_run(folder: Path, wanted: Sequence[str] | None) -> Subject:
    """The sides of a finished run: base and global adapter, or base and NAMED_CLIENTS clients, or those `wanted`.

    Where clients have adapters of their own, GLOBAL can be wanted too if there is one: it is that of unseen users.
    Raises a :class:`UserError` as :func:`open_run` does, for an unknown side, and where the base's files changed.
    """
    trained = _open(folder)
    merging.base_folder(trained)
    config = trained.config
    return Subject(
        model=config.model,
        lora=_lora_of(trained),
        template=config.data.template,
        sides=_sides_of_run(trained, wanted),
        base_hash=trained.run.base_hash,
        adapter=config.adapter.written,
    )


def _lora_of(trained: merging.TrainedRun) -> Lora:
    """The adapter's own settings where it is on some layers alone, which the config does not name."""
    lora, settings = trained.config.lora, starting.adapter_settings(trained.adapter)
    if not trained.config.offsite.is_on or (found := plain_lora(settings)) is None:
        return lora
    return replace(lora, targets=found.targets)


def _sides_of_run(trained: merging.TrainedRun, wanted: Sequence[str] | None) -> tuple[AnswerSide, ...]:
    run = trained.run
    if run.adapters:
        known = {f"{CLIENT}{name}": path for name, path in run.adapters.items()}
        names = wanted or [BASE, *named_clients(run, list(known))]
        known |= {GLOBAL: run.adapter} if run.adapter else {}
    else:
        known = {GLOBAL: trained.adapter}
        names = wanted or [BASE, GLOBAL]
    for name in names:
        if name != BASE and name not in known:
            raise unknown(f"side of {run.path.name}", name, (BASE, *known))
    return tuple(AnswerSide(name, known.get(name)) for name in dict.fromkeys(names))


def named_clients(run: RunFolder, known: Sequence[str]) -> list[str]:
    """NAMED_CLIENTS of the `known` sides of clients, at quantiles of their numbers of training rows."""
    counts = {
        f"{CLIENT}{folder_name(client.id, number)}": client.train
        for number, client in enumerate(split_of_run(run).manifest.clients)
    }
    sizes = [counts.get(name, 0) for name in known]
    return [known[place] for place in sample_by_size(sizes, range(len(known)), NAMED_CLIENTS)]


def subject_of_adapter(adapter: Path, model: str | None, template: str, dtype: str) -> Subject:
    """Any adapter in PEFT's format, or a bottleneck, on `model` or the base that its settings name."""
    folder = starting.find_adapter(str(adapter))
    settings = starting.adapter_settings(folder)
    kind = kind_of(settings, f"--adapter {adapter}")
    if kind is None:
        starting.locate_adapter(str(adapter))
    name = model or settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"--adapter {adapter}: its settings name no base model; give --model")
    if kind is not None:
        sides = (AnswerSide(BASE), AnswerSide(GLOBAL, folder))
        return replace(subject_of_model(name, template, dtype), sides=sides, adapter=kind)
    lora = plain_lora(settings)
    sides = (AnswerSide(BASE), AnswerSide(GLOBAL, folder, by_peft=lora is None))
    return replace(subject_of_model(name, template, dtype), lora=lora or any_lora(), sides=sides)


def plain_lora(settings: dict[str, Any]) -> Lora | None:
    """The settings of an adapter that our layers can take; None for one with more than A and B at named layers."""
    if any(settings.get(key) not in (value, None) for key, value in PLAIN.items()):
        return None
    if settings.get("init_lora_weights") in starting.CHANGE_THE_BASE:
        return None
    rank, alpha, targets = (settings.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if not (isinstance(rank, int) and isinstance(alpha, int) and isinstance(targets, list) and targets):
        return None
    return Lora(rank=rank, alpha=alpha, dropout=0.0, targets=tuple(sorted(map(str, targets))))


def subject_of_model(name: str, template: str, dtype: str) -> Subject:
    """Any model of transformers, alone."""
    model = Model(name=name, dtype=dtype)  # type: ignore[arg-type]  # the command allows these three
    folder = base_model.locate(name)
    hashed = base_model.fingerprint(folder)
    return Subject(model=model, lora=any_lora(), template=template, sides=(AnswerSide(BASE),), base_hash=hashed)


def only(subject: Subject, wanted: Sequence[str] | None) -> Subject:
    """The subject with the sides of these names; all where None are named."""
    known = {side.name: side for side in subject.sides}
    for name in wanted or ():
        if name not in known:
            raise unknown("side", name, known)
    return replace(subject, sides=tuple(known[name] for name in wanted)) if wanted else subject


def any_lora() -> Lora:
    """Layers for adapters that nobody will attach."""
    return Lora(rank=1, alpha=1, dropout=0.0, targets=("all-linear",))


@dataclass
class Resident:
    """The base of a subject, loaded when it is first needed and kept for all sides.

    With settings of `ray` workers answer, and the base here has no adapter in its layers.
    """

    subject: Subject
    device: str
    ray: Ray | None = None
    loaded: LoraModel | None = None

    @contextmanager
    def answering(self, side: AnswerSide) -> Iterator[Callable[[], tuple[LoraModel, UnderAdapters | None]]]:
        """Inside the block the function gives the model as `side`, or its base and the workers that answer as `side`.

        Nothing is loaded unless it is called.
        """
        with ExitStack() as stack:

            def model() -> tuple[LoraModel, UnderAdapters | None]:
                if side.by_peft:
                    config, lora = replace(self.subject.model, adapter=str(side.adapter)), any_lora()
                    found, tree = load_model(config, lora, self.device), None
                else:
                    config, lora, found = self.subject.model, self.subject.lora, self.base
                    tree = None if side.adapter is None else read_adapter(side.adapter, found, lora.rank)
                if self.ray is not None:
                    trees = {} if tree is None else {ALL: tree}
                    workers = Workers.of(found, config, lora, self.ray, self.subject.adapter)
                    return found, workers.under(side.fingerprint, trees, using_merged)
                stack.enter_context(answering_with(found, tree))
                return found, None

            yield model

    @property
    def base(self) -> LoraModel:
        if self.loaded is None:
            subject = self.subject
            self.loaded = load_model(subject.model, subject.lora, self.device, adapter=subject.adapter)
        return self.loaded

    @cached_property
    def tokenizer(self) -> Any:
        """That of the base, which is not loaded for it."""
        if self.loaded is not None:
            return self.loaded.tokenizer
        model = self.subject.model
        return load_tokenizer(base_model.locate(model.name, model.revision), model.name)

    @cached_property
    def batch_tokens(self) -> int:
        return batch_tokens(self.base)


def read_adapter(folder: Path, model: LoraModel, rank: int) -> Tree:
    """The tensors of an adapter; a :class:`UserError` where they are not those of the model's layers.

    A rule that changes the base leaves an adapter of a multiple of `rank`, whose scale is that of the layers.
    """
    from fedllm_bench.training.model.lora import A_AND_B, tensor_names

    tree = read_tensors(folder)
    found = max((len(t) if t.ndim else 0 for name, t in tree.items() if name.endswith(A_AND_B[0])), default=rank)
    rank = found if found % rank == 0 else rank
    shapes = {
        tensor: shape
        for name, layer in model.layers.items()
        for tensor, shape in zip(tensor_names(name, layer), layer.shapes(rank), strict=True)
    }
    if {name: tuple(tensor.shape) for name, tensor in tree.items()} != shapes:
        wrong = sorted(set(tree) ^ set(shapes)) or ["the shapes of tensors"]
        raise UserError(f"the adapter {folder} does not fit this base model ({wrong[0]}); give --model another one")
    return tree
