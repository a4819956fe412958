"""One cell of the benchmark: what names it, where it lies, and whether it is finished.

Nothing here loads torch, so that a finished run is shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import AGAIN, UserError
from fedllm_bench.config import base_model, starting
from fedllm_bench.config.clock.section import DRAWN, VirtualClock
from fedllm_bench.config.config_robust import OF_ATTACK, Aggregation, Attack
from fedllm_bench.config.config_uploads import Communication, Privacy
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.config.run import Method, Ray, RunConfig
from fedllm_bench.config.sections import without_method
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.runs.folder import BASELINE, CONFIG, RESULTS, RunFaults, RunFolder

ON_REAL_ROWS = ("small", "gpu24")  # profiles whose users are built from an upstream's rows where no split is named
PAIRS = (
    "; for pairs of your own: --set data.task=preference --set local.loss=dpo "
    "--metrics preference_accuracy,preference_margin,preference_loss"
)


class FolderOfCell(RunFolder):
    """A run that this machine made, and can make again."""

    faults = RunFaults(
        absent=f"{{path}}: it cannot be read, so that the run was changed after it ended; {AGAIN}",
        no_json=f"{{path}}: it is not JSON, so that it was changed after the run; {AGAIN}",
        no_object=f"{{path}}: a JSON {{kind}}, and no object, so that it was changed after the run; {AGAIN}",
        no_config=f"{{path}}: it was changed after the run: {{error}}; {AGAIN}",
    )


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: its config, split and base model, and the folder that these name.

    `shares_threads`: whether its baseline may have a part of the threads, and train at the same time.
    """

    config: RunConfig
    split: Split
    root: Path
    threads: int
    shares_threads: bool = False

    @cached_property
    def model_folder(self) -> Path:
        return base_model.locate(self.config.model.name, self.config.model.revision)

    @cached_property
    def base_hash(self) -> str:
        model = self.config.model
        return starting.base_fingerprint(self.model_folder, model.adapter, model.quantization)

    @cached_property
    def hash(self) -> str:
        """Names what the results depend on: settings and contents, not where the contents lie."""
        return settings_hash(self.config, self.split.hash, self.base_hash)

    @cached_property
    def folder(self) -> Path:
        return self.root / self.split.name / self.config.method.name / f"s{self.config.seed}-{self.hash}"

    @property
    def baseline(self) -> Cell:
        """The real users of the split, each training alone: a cell of its own, which all methods of a seed share."""
        config = self.config
        if config.method.name == BASELINE:
            return self
        data = replace(config.data, shuffle_users=False, swap_answers=False)
        # nothing is averaged, and nobody waits for anybody
        federation = replace(config.federation, weighting="uniform", sampler="uniform")
        method = Method(name=BASELINE, constants={})
        config = replace(config, privacy=Privacy(), communication=Communication())  # nothing is sent
        config = replace(config, aggregation=Aggregation(), attack=_asked(config), clock=VirtualClock())
        config = replace(config, plugins=without_method(config.plugins))
        return self.like(_viewed(replace(config, method=method, data=data, federation=federation)))

    def like(self, config: RunConfig) -> Cell:
        """Another cell on the same split and base model; neither is read again."""
        other = replace(self, config=config)
        if config.model == self.config.model:  # a base of 7B is 13 GB to hash; cached_property keeps it in vars
            vars(other)["base_hash"] = self.base_hash
        return other

    def with_threads(self, threads: int) -> Cell:
        """The same cell with so many threads."""
        other = replace(self, threads=threads)
        vars(other)["base_hash"] = self.base_hash
        return other

    def finished(self) -> dict[str, Any] | None:
        """The results of a run that ended before; None where there are none, or only those of an older schema.

        Raises a :class:`UserError` where results.json or config.json is not as the run left it.
        """
        run = FolderOfCell(self.folder)
        if not run.has(RESULTS) or not run.is_of_version:
            return None
        if (found := settings_hash(run.config, self.split.hash, self.base_hash)) != self.hash:
            raise run.fault("no_config", CONFIG, error=f"its hash is {found}, not {self.hash}")
        return run.results


def _asked(config: RunConfig) -> Attack:
    """An attack of nobody: what the metrics of an attack ask with, where they are asked for."""
    words = Attack(trigger=config.attack.trigger, answer=config.attack.answer)
    return words if set(OF_ATTACK) & set(config.evaluation.metrics) else Attack()


def settings_hash(config: RunConfig, split_hash: str, base_hash: str) -> str:
    """The first 10 digits that name a run with this config on this split and base model.

    `local.on_divergence` says when to stop and changes no result, so a run that stopped goes on where "go" is given.
    Engine "ray" says where clients are trained, not what: a run begun in one process goes on there, and vice versa.
    """
    config = in_one_process(config)
    base = replace(config.model, name=base_hash, adapter=None)  # the hash covers the adapter
    local = replace(config.local, on_divergence="stop")
    named = replace(_viewed(config), split=split_hash, model=base, local=local)
    named = replace(named, clock=_by_contents(config.clock), offsite=_of_rows(config.offsite))
    return files.sha256_json(named.to_dict())[:10]


def _by_contents(clock: VirtualClock) -> VirtualClock:
    """The contents of a file of devices name a run, not its place."""
    return clock if clock.devices == DRAWN else replace(clock, devices="file")


def _of_rows(offsite: Offsite) -> Offsite:
    """The same settings, with the hash of public rows for their place."""
    public = open_split(files.at_home(offsite.public)).hash if offsite.public else ""
    return replace(offsite, public=public)


def in_one_process(config: RunConfig) -> RunConfig:
    """The same run without workers of Ray."""
    return replace(config, engine="inprocess", ray=Ray()) if config.engine == "ray" else config


def _viewed(config: RunConfig) -> RunConfig:
    """`config` without the looks at a global adapter where there is none, and without a budget, as nothing is sent:

    all methods share one baseline.
    """
    if config.method.name != BASELINE:
        return config
    off = replace(config.evaluation, every=0, personal_steps=0, personal_clients=0, personal_lr=0.0)
    unbound = replace(config.communication, budget_mb=None)
    return replace(config, evaluation=off, communication=unbound)


def resolve_split(config: RunConfig) -> Split:
    """The split the user named, else that of the profile: embedded, or built from the upstream's rows.

    Raises a :class:`UserError` where there is none.
    """
    if config.split is not None:
        split = open_split(files.at_home(config.split))
        if split.task != config.data.task:
            pairs = PAIRS if (config.dataset, split.task) == ("rows", "preference") else ""
            raise UserError(
                f"SPLIT={config.split}: its task is {split.task}, {config.dataset} needs {config.data.task}{pairs}"
            )
        return split
    if config.profile in ON_REAL_ROWS:
        from fedllm_bench.runs.profile_split import built_split

        return built_split(config)
    from fedllm_bench.mini.dataset import BUILDERS, mini_split
    from fedllm_bench.mini.tables import ROWS

    known = (*BUILDERS, *ROWS)
    if config.dataset not in known:
        raise UserError(
            f"no mini variant of {config.dataset}; there is one of {', '.join(sorted(known))}; or give SPLIT=DIR"
        )
    return mini_split(config.dataset, config.data.world_seed, files.cache_root(), config.variant)


def split_of_run(run: RunFolder) -> Split:
    """The split that the run was trained on; a :class:`UserError` where it is not there, or another one by now."""
    split = resolve_split(run.config)
    if split.hash != run.split_hash:
        raise UserError(f"{split.folder} is not the split of {run.path} any more (hash {split.hash[:10]}, not "
                        f"{run.split_hash[:10]}); restore it")  # fmt: skip
    return split
