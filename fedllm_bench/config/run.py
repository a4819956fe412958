"""What a run is made of: frozen parts, checked once and as a whole.

Values come from JSON-like data (TOML presets, ``--set``, a run folder) through :func:`check`, which names
every problem in one line. Presets give every value; the only defaults here mean "not given", or off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError, shown
from fedllm_bench.common.files import sha256_json
from fedllm_bench.config.added import ADDED
from fedllm_bench.config.clock.section import VirtualClock, check_clock
from fedllm_bench.config.config_robust import Aggregation, Attack
from fedllm_bench.config.config_uploads import Communication, NotNegative, Positive, Privacy
from fedllm_bench.config.config_uploads import Strict as _Strict
from fedllm_bench.config.kinds.adapter_kind import AdapterKind, check_kind
from fedllm_bench.config.objective_rules import check_objective
from fedllm_bench.config.option_names import setting_of, unknown_option
from fedllm_bench.config.parts.offsite import Offsite, check_offsite
from fedllm_bench.config.sections import Count, Fraction, Names, Text, UsedPlugin, check_stopping, check_together
from fedllm_bench.config.sections import Faults as Faults
from fedllm_bench.config.sections import Federation as Federation
from fedllm_bench.config.sections import Lora as Lora
from fedllm_bench.config.sections import Model as Model
from fedllm_bench.config.sections import Ray as Ray

Profile = Literal["mini", "small", "gpu24", "paper"]
Constant = bool | int | float | str

MOST_LEVELS = 9  # of tables within tables, as [a.b.c]; settings have two
EMBEDDED_MODEL = "mini"  # the name of the base model that travels in the package

CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, kw_only=True)
class Method(_Strict):
    """A federated method and its constants, which the method's own dataclass takes as keyword arguments."""

    name: Text
    constants: Mapping[str, Constant]


@dataclass(frozen=True, kw_only=True)
class Data(_Strict):
    """`world_seed` is read under profile mini only; `clients` and `upstream` tell what was published.

    Two controls: with `shuffle_users` training rows are dealt to the clients at random, each keeping its number; with
    `swap_answers` each training row gets the answer of another user's row, of the same language and source.

    `split_pairs`: under `local.loss=kto` the rejected answer of a pair is dealt to another client than the chosen one.
    `canaries`: so many secrets are planted, each in the place of `canary_repeats` training rows (docs/memorisation.md).
    """

    task: Literal["sft", "preference"]
    # "model": the base model's own, else "plain"
    template: Literal["alpaca", "alpaca_input", "vicuna_v1.1", "mini", "plain", "model"]
    world_seed: CountOrZero
    shuffle_users: bool
    swap_answers: bool = False
    split_pairs: bool = False
    canaries: CountOrZero = 0
    canary_repeats: Count = 1
    clients: Count | None = None
    upstream: Text | None = None


@dataclass(frozen=True, kw_only=True)
class Local(_Strict):
    """Training of one client in one round.

    `steps` counts optimiser steps under the rule "fixed". Under "dynamic" it counts passes over a client's
    rows in the whole training, which are spread evenly over the rounds the client can expect to be chosen.
    """

    steps: Count
    steps_rule: Literal["fixed", "dynamic"]
    micro_batch: Count
    accumulation: Count
    sequence_length: Count
    optimizer: Literal["adamw", "sgd"]
    lr: Positive
    lr_end: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    weight_decay: NotNegative
    clip: Positive
    block_size: Count  # clients trained in one pass; exact, but for the rounding of sums
    loss: Literal["sft", "dpo", "kto"]
    dpo_loss: Literal["sigmoid", "ipo", "simpo", "orpo"]
    dpo_beta: Positive
    gradient_checkpointing: bool
    simpo_gamma: NotNegative = 0.5  # TRL's; how far the rewards of a pair should lie apart
    kto_desirable: NotNegative = 1.0  # lambda_D and lambda_U of KTO
    kto_undesirable: NotNegative = 1.0
    on_divergence: Literal["stop", "go"] = "stop"  # where the first round makes losses larger than the base's

    def lr_at(self, round_num: int, rounds: int) -> float:
        """The rate of round `round_num` (0 is the first): `lr` there, and almost `lr_end` in the last."""
        return self.lr_end + (self.lr - self.lr_end) / 2 * (1 + math.cos(math.pi * round_num / rounds))

    def num_steps(self, num_examples: int, expected_turns: float) -> int:
        """Optimiser steps of a client that can expect to be chosen R S / N = `expected_turns` times."""
        if self.steps_rule == "fixed":
            return self.steps
        rows_per_step = self.micro_batch * self.accumulation
        return max(1, math.ceil(self.steps * num_examples / expected_turns / rows_per_step))


@dataclass(frozen=True, kw_only=True)
class Evaluation(_Strict):
    """`local_clients`: how many named clients the baseline `local` trains; 0 means all of them.

    The rest is off at 0 and changes no adapter (docs/clients.md). `every`: rounds from one held-out loss of each
    client to the next. `personal_steps`: local steps from the global adapter, for `personal_clients` clients
    (0 means all) at the rate `personal_lr` (0 means that of the last round). `heldout_rows`, `clients`: score a sample
    of so many rows of each part, of so many clients; 0 means all.
    """

    metrics: Names
    local_clients: CountOrZero
    batch_tokens: Count
    bootstrap_samples: Count  # read by nothing: kept because the name of a run folder is a hash of all settings
    max_new_tokens: Count
    every: CountOrZero = 0
    personal_steps: CountOrZero = 0
    personal_clients: CountOrZero = 0
    personal_lr: NotNegative = 0.0
    heldout_rows: CountOrZero = 0
    clients: CountOrZero = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Strict):
    """One run. Equal configs have equal hashes, and a run folder belongs to exactly one hash."""

    dataset: Text
    name: Text  # what is shown: "mini-aya" under profile mini, so that nobody quotes it as Fed-Aya
    method: Method
    profile: Profile
    track: Profile
    seed: CountOrZero
    engine: Literal["inprocess", "trl", "ray"]
    variant: Literal["paper", "released"]
    split: Text | None = None
    data: Data
    model: Model
    lora: Lora
    federation: Federation
    local: Local
    evaluation: Evaluation
    adapter: AdapterKind = field(default_factory=AdapterKind)
    faults: Faults = field(default_factory=Faults)
    privacy: Privacy = field(default_factory=Privacy)
    communication: Communication = field(default_factory=Communication)
    aggregation: Aggregation = field(default_factory=Aggregation)
    attack: Attack = field(default_factory=Attack)
    ray: Ray = field(default_factory=Ray)
    clock: VirtualClock = field(default_factory=VirtualClock)
    offsite: Offsite = field(default_factory=Offsite)
    plugins: tuple[UsedPlugin, ...] = ()

    def __post_init__(self) -> None:
        check_objective(self.data, self.local, self.engine)
        check_together(self.model, self.lora, self.communication, self.engine, self.ray)
        check_kind(self.adapter, self.model, self.lora, self.communication, self.engine)
        check_clock(self.clock, self.federation.sampler, self.federation.clients_per_round)
        check_stopping(self.federation, self.privacy, self.variant)
        other = {
            f"engine={self.engine}": self.engine != "inprocess",
            f"data.task={self.data.task}": self.data.task != "sft",
            f"variant={self.variant}": self.variant != "paper",
            f"adapter.kind={self.adapter.kind}": not self.adapter.is_lora,
            f"clock.mode={self.clock.mode}": self.clock.is_on,
            f"federation.patience={self.federation.patience}": bool(self.federation.patience),
        }
        check_offsite(self.offsite, self.model, self.lora, self.communication, other)

    def to_dict(self) -> dict[str, Any]:
        """JSON data; ``check(config.to_dict()) == config``."""
        values = self.every_value()
        for section, keys in ADDED.items():  # else runs from before there were these keys would have other hashes
            for key, default in keys.items():
                part = values[section] if section else values
                if part[key] == default:
                    del part[key]
        return values

    def every_value(self) -> dict[str, Any]:
        """JSON data with all keys, those of ADDED too."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def plugin_of(self, kind: str, name: str) -> UsedPlugin | None:
        """The plugin that gives `name` of `kind`, such as "METHODS"; None where the suite itself does."""
        return next((plugin for plugin in self.plugins if f"{kind}:{name}" in plugin.gives), None)

    @property
    def hash(self) -> str:
        return sha256_json(self.to_dict())[:10]


SECTIONS: dict[str, type] = {
    name: part
    for name, part in get_type_hints(RunConfig).items()
    if isinstance(part, type) and is_dataclass(part) and name != "method"
}


@cache
def option_types() -> dict[str, Any]:
    """Every key that can be set, as in "local.lr", with its type; constants of methods are not here."""
    return {
        f"{section}.{field}": hint for section, part in SECTIONS.items() for field, hint in get_type_hints(part).items()
    }


def check(
    values: Mapping[str, Any], sources: Mapping[str, str] | None = None, problems: Sequence[str] = ()
) -> RunConfig:
    """The config of JSON-like `values`, or a :class:`UserError` with all problems, joined by "; ".

    `sources` tells, for a dotted key, where its value was read; `problems` are those that were found before.
    """
    try:
        # JSON mode: lists become tuples although the types are strict. A TOML date becomes text.
        config = _adapter().validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        items = error.errors(include_url=False)
        # A list of wrong items is also reported as too short, which it is not.
        items = [item for item in items if item["type"] != "too_short" or not item["input"]]
        found = [_problem(item, sources or {}) for item in items]
        raise UserError("; ".join([*problems, *found])) from error
    if problems:
        raise UserError("; ".join(problems))
    return config


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    return TypeAdapter(RunConfig)


def _problem(item: Any, sources: Mapping[str, str]) -> str:
    """One line for one error of pydantic: the key, where it was set, what was got, what is allowed."""
    key = ".".join(str(part) for part in item["loc"])
    source = sources.get(key) or sources.get(".".join(key.split(".")[:2]))  # an item of a list: where the list was read
    where = f" ({source})" if source else ""
    if item["type"] == "missing":
        return f"{key}{where}: not given, and there is no default"
    if item["type"] == "unexpected_keyword_argument":
        return unknown_option(key, option_types(), where)
    if not key:  # a check of several keys, which names them itself
        return str(item["msg"]).removeprefix("Value error, ")
    rule = str(item["msg"]).removeprefix("Value error, ").partition(" after validation")[0]
    rule = re.sub(r"^(Input|String|Tuple) should", "it should", rule)
    rule = rule.replace("a valid boolean", "true or false")
    meant = setting_of(item["input"]) if item["type"] == "literal_error" else ""
    return f"{key}{where}: got {shown(item['input'])}, {rule}{meant and f'; did you mean {meant}?'}"


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted keys; an empty table has none.

    Raises a :class:`UserError` for tables within tables that no setting has.
    """
    if prefix.count(".") > MOST_LEVELS:
        raise UserError(f"{shown(prefix)}: tables within more than {MOST_LEVELS} others; a setting is SECTION.NAME")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
