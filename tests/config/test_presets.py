"""Presets: every cell resolves, published numbers stand, a later layer wins, and nothing misspelt passes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from checkout import ROOT

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.presets import dataset_aliases, dataset_names, explain, load, method_names
from fedllm_bench.config.run import Profile, option_types

ALIASES = {"chatbot_arena": "chatbot_it", "chatbot_dpo": "chatbot_pa"}
CELLS = list(product([*dataset_names(), *ALIASES], method_names(), get_args(Profile)))


def message(*args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_names_are_those_of_the_benchmark() -> None:
    assert dataset_names() == ["aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi"]
    assert set(method_names()) == {
        *("local", "fedavg", "fedprox", "scaffold", "fedavgm"),
        *("fedadagrad", "fedyogi", "fedadam", "central", "feddyn", "dp_fedavg", "hetlora"),
        *("ditto", "pfedme", "fedrep", "fedem", "fedmezo", "fedkseed"),
    }
    assert sorted(path.stem for path in (ROOT / "benchmarks" / "profiles").glob("*.toml")) == sorted(get_args(Profile))
    assert dataset_aliases() == ALIASES


def test_every_cell_of_the_grid_resolves_to_its_own_config() -> None:
    assert len(CELLS) == (5 + 2) * len(method_names()) * 4
    configs = {cell: load(*cell) for cell in CELLS}
    assert len({config.hash for config in configs.values()}) == 5 * len(method_names()) * 4
    for (dataset, method, profile), config in configs.items():
        name = ALIASES.get(dataset, dataset)
        assert (config.dataset, config.method.name, config.profile) == (name, method, profile)
        assert config.name == (f"mini-{name}" if profile == "mini" else name)
        assert config.track == profile
        assert config.data.clients is not None
        config.federation.check(config.data.clients)


def test_aya_is_as_published() -> None:
    config = load("aya", "fedprox", "paper")
    federation, local, lora = config.federation, config.local, config.lora
    assert (federation.rounds, federation.clients_per_round, config.data.clients) == (200, 4, 38)
    assert (local.steps, local.steps_rule, local.micro_batch, local.accumulation) == (10, "fixed", 4, 4)
    assert (local.sequence_length, config.data.template, config.data.task) == (1024, "alpaca", "sft")
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (16, 32, 0.05, ("auto",))
    assert local.lr_at(0, 200) == 2e-5
    assert local.lr_at(100, 200) == pytest.approx(1.05e-5)
    assert local.lr_at(199, 200) == pytest.approx(1e-6, rel=2e-3)
    assert (local.optimizer, local.beta1, local.beta2, local.weight_decay) == ("adamw", 0.9, 0.999, 0.0)
    assert (local.clip, local.loss, local.gradient_checkpointing) == (1.0, "sft", True)
    assert (config.model.name, config.model.dtype) == ("meta-llama/Llama-2-7b-hf", "bfloat16")
    assert config.method.constants == {"mu": 0.01}


def test_chatbot_pa_is_as_published() -> None:
    config = load("chatbot_pa", "fedadam", "paper")
    federation, local, lora = config.federation, config.local, config.lora
    assert (federation.rounds, federation.clients_per_round, config.data.clients) == (200, 10, 747)
    assert (local.steps_rule, local.micro_batch, local.accumulation) == ("dynamic", 8, 1)
    assert (local.sequence_length, config.data.template, config.data.task) == (512, "alpaca", "preference")
    assert (lora.rank, lora.alpha, local.loss, local.dpo_beta) == (8, 16, "dpo", 0.1)
    assert local.lr_at(0, 200) == 1e-4
    assert local.lr_at(199, 200) == pytest.approx(1e-5, rel=1e-3)
    assert config.method.constants == {"beta1": 0.5, "beta2": 0.99, "eta": 1e-3, "tau": 1e-3}


@pytest.mark.parametrize(
    ("dataset", "rounds", "per_round", "clients", "steps", "length", "template"),
    [
        ("chatbot_it", 100, 10, 237, 5, 1024, "alpaca"),
        ("wildchat", 100, 5, 100, 10, 1024, "alpaca"),
        ("wildchat_multi", 100, 3, 50, 10, 2048, "vicuna_v1.1"),
    ],
)
def test_the_other_sets_are_as_published(
    dataset: str, rounds: int, per_round: int, clients: int, steps: int, length: int, template: str
) -> None:
    config = load(dataset, "fedavg", "paper")
    assert (config.federation.rounds, config.federation.clients_per_round) == (rounds, per_round)
    assert (config.data.clients, config.data.template) == (clients, template)
    assert (config.local.steps, config.local.sequence_length) == (steps, length)
    assert config.lora == load("aya", "fedavg", "paper").lora


def test_rows_of_ones_own_have_a_preset_that_is_no_data_set_of_the_benchmark() -> None:
    assert "rows" not in dataset_names()
    configs = {profile: load("rows", "fedavg", profile, split="splits/mine") for profile in ("mini", "paper")}
    assert len(configs) == 2
    for profile, config in configs.items():
        assert (config.dataset, config.federation.clients_per_round) == ("rows", 2)
        assert (config.data.clients, config.data.upstream) == (None, None)  # nothing was published
        assert config.evaluation.metrics[0] == "heldout"
        assert config.model.name == load("aya", "fedavg", profile).model.name
    assert "rows" in message("row", "fedavg", "mini")


def test_mini_runs_on_the_embedded_model_for_every_set() -> None:
    configs = [load(dataset, "fedavg", "mini") for dataset in dataset_names()]
    assert len(configs) == 5
    assert {(config.model.name, config.data.template, config.local.steps_rule) for config in configs} == {
        ("mini", "mini", "fixed")
    }


# --- Layers ---------------------------------------------------------------------------------------------

LAYERS = [  # in the order in which they win over each other
    ("datasets/aya.toml", "lr = 2e-5", "lr = 1.0"),
    ("profiles/mini.toml", "[local]\n", "[local]\nlr = 2.0\n"),
    ("profiles/mini.toml", "[methods.fedprox]", "[datasets.aya.local]\nlr = 3.0\n[methods.fedprox]"),
    ("overrides.toml", "override = []", '[[override]]\nwhen = {}\nreason = "r"\nset.local.lr = 4.0'),
    ("overrides.toml", "set.local.lr = 4.0", 'set = {"local.lr" = 4.0}\n[[override]]\n{second}'),
]
SECOND = 'when = {dataset = "aya", method = "fedprox"}\nreason = "why"\nset.local.lr = 5.0'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    shutil.copytree(Path(str(files("fedllm_bench.benchmarks"))), folder)
    (folder / "overrides.toml").write_text("override = []\n")
    profile = folder / "profiles/mini.toml"
    lines = [line for line in profile.read_text().splitlines() if not line.startswith("lr = ")]
    profile.write_text("\n".join(lines))
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, (path, old)
    path.write_text(text.replace(old, new, 1))


def test_a_later_layer_wins(root: Path) -> None:
    for number, (path, old, new) in enumerate(LAYERS, start=1):
        edit(root / path, old, new.replace("{second}", SECOND))
        assert load("aya", "fedprox", "mini", root=root).local.lr == number
    assert load("aya", "fedprox", "mini", ["local.lr=6"], root=root).local.lr == 6
    assert load("aya", "fedprox", "mini", ["local.lr=6", "local.lr=7"], root=root).local.lr == 7
    assert load("aya", "fedavg", "mini", root=root).local.lr == 4


def test_a_profile_has_its_own_constants_and_set_wins_over_them(root: Path) -> None:
    edit(root / "profiles/mini.toml", "mu = 0.01", "mu = 0.5")
    assert load("aya", "fedprox", "mini", root=root).method.constants == {"mu": 0.5}
    assert load("aya", "fedprox", "paper", root=root).method.constants == {"mu": 0.01}
    assert load("aya", "fedprox", "mini", ["method.mu=1"], root=root).method.constants == {"mu": 1.0}


def test_explain_names_the_layer_of_every_value(root: Path) -> None:
    (root / "overrides.toml").write_text(f"[[override]]\n{SECOND}\n")
    arguments = ("aya", "fedprox", "mini", ["lora.rank=4"])
    options = {"seed": 3, "model": "some/model", "metrics": "heldout", "root": root}
    sources = explain(*arguments, **options)
    assert sources["federation.weighting"] == "profiles/mini.toml"
    assert sources["federation.rounds"] == sources["method.mu"] == "profiles/mini.toml"
    assert explain("aya", "fedprox", "paper")["method.mu"] == "methods/fedprox.toml"
    assert sources["local.lr"] == "overrides.toml: why"
    assert sources["lora.rank"] == "--set"
    assert (sources["seed"], sources["model.name"]) == ("--seed", "--model")
    assert sources["evaluation.metrics"] == "--metrics"
    assert sources["engine"] == sources["split"] == sources["model.revision"] == "default"
    values = load(*arguments, **options).to_dict()
    leaves = {f"{section}.{key}" for section, part in values.items() if isinstance(part, dict) for key in part}
    assert leaves - {"method.constants"} <= set(sources)
    assert option_types().keys() <= sources.keys()  # also local.on_divergence, which to_dict leaves out by default


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ('when = {}\nset = {"local.lr" = 1.0}', "has when, reason and set"),
        ('when = {}\nreason = " "\nset = {"local.lr" = 1.0}', "has when, reason and set"),
        ('when = {method = "fedprx"}\nreason = "r"\nset = {}', "did you mean 'fedprox'?"),
        ('when = {metod = "fedprox"}\nreason = "r"\nset = {}', "did you mean 'method'?"),
        (
            'when = {}\nreason = "r"\nset = {"local.lrr" = 1.0}',
            "(overrides.toml: r); did you mean 'local.lr'?",
        ),
    ],
)
def test_an_exception_needs_a_known_condition_and_a_reason(root: Path, entry: str, text: str) -> None:
    (root / "overrides.toml").write_text(f"[[override]]\n{entry}\n")
    assert text in message("aya", "fedavg", "mini", root=root)


def test_mistakes_in_preset_files_are_named_with_their_file(root: Path) -> None:
    profile = root / "profiles/mini.toml"
    edit(profile, "[methods.fedprox]", "[methods.fedprx]")
    assert "did you mean 'fedprox'?" in message("aya", "fedavg", "mini", root=root)
    edit(profile, "[methods.fedprx]", "[methods.fedprox]")
    edit(profile, "rounds = 30", 'rounds = "30"')
    assert message("aya", "fedavg", "mini", ["local.lr=1"], root=root).startswith(
        "federation.rounds (profiles/mini.toml): got '30'"
    )
    edit(profile, "[lora]", "[lora")
    assert "benchmarks/profiles/mini.toml is not TOML" in message("aya", "fedavg", "mini", root=root)


# --- Arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("local.lr=1e-4", "local", "lr", 1e-4),
        (" local.lr = .5 ", "local", "lr", 0.5),
        ("local.gradient_checkpointing=true", "local", "gradient_checkpointing", True),
        ("local.optimizer=sgd", "local", "optimizer", "sgd"),
        ("local.optimizer='sgd'", "local", "optimizer", "sgd"),
        ("lora.targets=q_proj,v_proj", "lora", "targets", ("q_proj", "v_proj")),
        ("lora.targets=['q_proj', 'v_proj']", "lora", "targets", ("q_proj", "v_proj")),
        ("evaluation.metrics=heldout", "evaluation", "metrics", ("heldout",)),
        ("model.revision=1234567", "model", "revision", "1234567"),
        ("model.name=a/b=c", "model", "name", "a/b=c"),
    ],
)
def test_a_value_is_read_by_the_type_of_its_option(text: str, section: str, field: str, value: Any) -> None:
    assert getattr(getattr(load("aya", "fedavg", "mini", [text]), section), field) == value


def test_arguments_with_a_name_of_their_own() -> None:
    config = load("aya", "fedavg", "mini", seed=7, split="dir", model="x/y", metrics="heldout, mini_exact")
    assert (config.seed, config.split, config.model.name) == (7, "dir", "x/y")
    assert config.evaluation.metrics == ("heldout", "mini_exact")
    assert load("aya", "fedavg", "mini", metrics=["heldout"]).evaluation.metrics == ("heldout",)
    plain = load("aya", "fedavg", "mini", split=None, model=None, metrics=None)
    assert plain == load("aya", "fedavg", "mini")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ayo", "fedavg", "mini"), "did you mean 'aya'?"),
        (("chatbot_aren", "fedavg", "mini"), "did you mean 'chatbot_arena'?"),
        (("aya", "fedpro", "mini"), "did you mean 'fedprox'?"),
        (("aya", "fedavg", "papre"), "did you mean 'paper'?"),
        (("../datasets/aya", "fedavg", "mini"), "There are: alpaca,"),
        (("aya", "fedavg", "mini", ["lr=1"]), "did you mean 'local.lr'?"),
        (("aya", "fedavg", "mini", ["federation.lr=1"]), "did you mean 'local.lr'?"),
        (("aya", "fedavg", "mini", ["local.leraning_rate=1"]), "There are: local.accumulation"),
        (("aya", "fedavg", "mini", ["federation.round=1"]), "did you mean 'federation.rounds'?"),
        (("aya", "fedprox", "mini", ["method.mo=1"]), "did you mean 'method.mu'?"),
        (("aya", "fedavg", "mini", ["method.mu=1"]), "no option 'method.mu' (--set)"),
        (("aya", "fedavg", "mini", ["name=aya"]), "no option 'name' (--set)"),
        (("aya", "fedavg", "mini", ["track=paper"]), "no option 'track' (--set)"),
        (("aya", "fedavg", "mini", ["seed=1"]), "--seed"),
        (("aya", "fedavg", "mini", ["local.lr"]), "write KEY=VALUE"),
        (
            ("aya", "fedavg", "mini", ["local.lr=abc"]),
            "local.lr (--set): got 'abc', it should be a valid number",
        ),
        (("aya", "fedavg", "mini", ["local.lr=nan"]), "it should be a finite number"),
        (("aya", "fedavg", "mini", ["local.steps=2024-01-01"]), "it should be a valid integer"),
        (("aya", "fedavg", "mini", ["local.steps=9999999999"]), "it should be less than 2147483648"),
        (("aya", "fedavg", "mini", ["local.lr=" + "9" * 5000]), "it should be a finite number"),
        (("aya", "fedavg", "mini", ["lora.targets="]), "it should have at least 1 item"),
        (
            ("aya", "fedprox", "mini", ["method.mu=x"]),
            "method.mu (--set): got 'x', it should be a finite number, as 0.01",
        ),
        (("aya", "fedprox", "mini", ["method.mu=nan"]), "method.mu (--set): got nan, it should be a finite number"),
        (("aya", "fedem", "mini", ["method.adapters=2.5"]), "got 2.5, it should be a whole number, as 3"),
        (("aya", "fedkseed", "mini", ["method.pro=maybe"]), "got 'maybe', it should be true or false, as false"),
        (("aya", "fedrep", "mini", ["method.local_parts=3"]), "got 3, it should be text, as 'lora_B'"),
        (
            ("aya", "fedavg", "mini", ["communication.secure_sum=maybe"]),
            "communication.secure_sum (--set): got 'maybe', it should be true or false",
        ),
        (("aya", "fedprox", "mini", ["method.mu=true"]), "method.mu (--set): got True"),
    ],
)
def test_bad_input_is_one_line_with_a_way_out(arguments: tuple[Any, ...], text: str) -> None:
    assert text in message(*arguments)


def test_bad_arguments_are_named_by_their_option() -> None:
    text = message("aya", "fedavg", "mini", engine="dask", seed=-1, metrics="")
    assert "engine (--engine): got 'dask', it should be 'inprocess', 'trl' or 'ray'" in text
    assert "seed (--seed): got -1" in text
    assert "evaluation.metrics (--metrics): got []" in text


def test_all_kinds_of_problems_are_joined_and_named_once() -> None:
    text = message("aya", "fedprox", "mini", ["local.lrr=1", "method.mu=nan", "local.clip=0"])
    assert [text.count(key) for key in ("'local.lrr'", "method.mu", "local.clip (--set)")] == [1, 1, 1]


def test_loading_needs_no_heavy_import_and_hashes_alike_in_another_process() -> None:
    code = (
        "import sys, json; from fedllm_bench.common import provenance;"
        "from fedllm_bench.config import preflight, presets;"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'pandas', 'datasets'} & set(sys.modules);"
        "print(json.dumps([presets.load('aya', 'fedavg', 'mini').hash, sorted(heavy)]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(result.stdout) == [load("aya", "fedavg", "mini").hash, []]
