"""Tracks: each shipped preset keeps the rules of its fixed track, and one changed setting is one clear line."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.run import Profile, check, option_types
from fedllm_bench.leaderboard.submission.tracks import KINDS, find_track, flat, load_tracks, rule_problems, track_of

TRACKS = load_tracks()
PRIVATE = ("privacy.clip=1.0", "privacy.noise_multiplier=1.0", "federation.weighting=uniform")
WITH_BOARDS = ("mini", "paper")
CELLS = [(d, m, p) for d in presets.dataset_names() for m in presets.method_names() for p in WITH_BOARDS]


def config(*overrides, dataset="aya", method="fedavg", profile="mini", **options):
    return presets.load(dataset, method, profile, overrides, **options)


def lines(track, *overrides, **options):
    return [problem.message for problem in rule_problems(TRACKS[track], config(*overrides, **options))]


def test_every_data_set_under_both_profiles_has_every_kind():
    names = [*presets.dataset_names(), *(f"mini-{name}" for name in presets.dataset_names())]
    assert set(TRACKS) == {f"{name}/{kind}" for name in names for kind in KINDS}
    assert len(TRACKS) == 10 * 6


@pytest.mark.parametrize("name", TRACKS)
def test_a_track_says_what_it_is_and_ranks_something(name):
    track = TRACKS[name]
    assert track.metrics("judge")
    assert len(set(track.metrics("judge"))) == len(track.metrics("judge"))
    assert track.title
    assert track.description.endswith(".")
    assert track.min_seeds == 3
    assert presets.load(track.preset, "fedavg", track.profile).name == track.dataset


@pytest.mark.parametrize("name", TRACKS)
def test_patterns_and_limits_of_a_track_are_about_keys_that_there_are(name):
    track = TRACKS[name]
    keys = {*flat(presets.load(track.preset, "fedprox", track.profile)), *option_types()}
    named = [*track.rules.required, *track.rules.at_most, *(k for keys in track.rules.any_of for k in keys)]
    named += [key for keys in track.rules.products for key in keys]
    assert set(named) <= keys
    for pattern in (*track.rules.free, *track.rules.pinned):
        assert any(replace(track.rules, free=(pattern,), pinned=()).is_free(key) for key in keys), pattern


@pytest.mark.parametrize(("dataset", "method", "profile"), CELLS)
def test_every_shipped_cell_is_inside_the_rules_of_its_fixed_track(dataset, method, profile):
    shipped = config(dataset=dataset, method=method, profile=profile)
    assert rule_problems(TRACKS[f"{shipped.name}/fixed"], shipped) == []
    assert len(CELLS) >= 5 * 11 * 2


@pytest.mark.parametrize("name", [name for name in TRACKS if name.endswith("/fixed")])
@pytest.mark.parametrize(
    "change",
    ["federation.rounds=31", "local.steps=11", "local.lr=3e-5", "lora.rank=9", "faults.dropout=0.1", "local.clip=2.0"],
)
def test_one_setting_outside_the_rules_is_one_line_that_names_it(name, change):
    track = TRACKS[name]
    (line,) = lines(name, change, dataset=track.preset, profile=track.profile)
    assert line.startswith(f"{change.partition('=')[0]}: got ")
    assert line.endswith(f"(track {name})")
    assert "\n" not in line


def test_what_changes_no_number_is_free():
    free = ("local.block_size=2", "local.gradient_checkpointing=true", "evaluation.every=5", "method.mu=0.5")
    assert lines("mini-aya/fixed", *free, method="fedprox", seed=7, engine="trl") == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["heldout_rows", "clients"])
def test_a_sampled_run_enters_no_track_of_whole_ones(key: str, kind: str):
    own = (*PRIVATE, f"evaluation.{key}=4") if kind == "private" else (f"evaluation.{key}=4",)
    assert lines(f"mini-aya/{kind}", *own) == [f"evaluation.{key}: got 4, this track has 0 (track mini-aya/{kind})"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_attackers_enters_no_track_and_one_with_a_robust_rule_does(kind: str):
    more = PRIVATE if kind == "private" else ()
    attacked = lines(f"mini-aya/{kind}", *more, "attack.kind=sign_flip", "attack.clients=0,3")
    assert [line.partition(":")[0] for line in attacked] == ["attack.clients", "attack.kind"]
    assert attacked[1] == f"attack.kind: got 'sign_flip', this track has 'none' (track mini-aya/{kind})"
    assert lines(f"mini-aya/{kind}", *more, "aggregation.rule=krum", "aggregation.byzantine=1") == []


def test_micro_batches_may_be_cut_otherwise_but_not_the_rows_of_a_step():
    assert lines("mini-aya/fixed", "local.micro_batch=16", "local.accumulation=1") == []
    (line,) = lines("mini-aya/fixed", "local.micro_batch=16")
    assert line == "local.micro_batch * local.accumulation: got 32, this track has 16 (track mini-aya/fixed)"


def test_a_method_that_the_suite_does_not_have_is_compared_with_fedavg():
    values = config("method.mu=0.3", method="fedprox").to_dict()
    values["method"] = {"name": "my_method", "constants": {"theta": 1.0}}
    assert rule_problems(TRACKS["mini-aya/fixed"], check(values)) == []
    values["federation"]["clients_per_round"] = 9
    assert len(rule_problems(TRACKS["mini-aya/fixed"], check(values))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_track_is_of_offsite_tuning(kind):
    text = f"offsite.variant: got fedot, and no track is of offsite tuning (track mini-aya/{kind})"
    assert text in lines(f"mini-aya/{kind}", "offsite.variant=fedot", "offsite.right=1")


def test_a_mini_run_enters_no_board_of_a_real_data_set():
    problems = rule_problems(TRACKS["aya/open"], config())
    assert {problem.message.partition(":")[0] for problem in problems} >= {"name", "profile", "track"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_base_is_allowed_where_the_base_is_open(kind):
    changed = ("lora.rank=4", "model.dtype=bfloat16", "local.lr=1e-3")
    assert bool(lines(f"mini-aya/{kind}", *changed, model="other/base")) == (kind not in ("open_base", "open"))


@pytest.mark.parametrize("name", [name for name in TRACKS if name.endswith("/private")])
def test_a_private_track_needs_a_clip_and_noise_and_bounds_epsilon(name):
    of = {"dataset": TRACKS[name].preset, "profile": TRACKS[name].profile}
    assert [line.partition(":")[0] for line in lines(name, **of)] == [
        "privacy.clip",
        "privacy.epsilon or privacy.noise_multiplier",
    ]
    assert lines(name, *PRIVATE, "federation.clients_per_round=5", **of) == []
    (line,) = lines(name, *PRIVATE, "privacy.delta=1e-3", **of)
    assert line.startswith("privacy.delta: got 0.001, at most 0.0001 is allowed")
    assert len(lines(name, "privacy.clip=1.0", "privacy.epsilon=9.0", "federation.weighting=uniform", **of)) == 1


def test_the_open_track_pins_the_data_and_nothing_else():
    assert lines("mini-aya/open", "federation.rounds=1", "local.steps=99", model="x/y") == []
    assert len(lines("mini-aya/open", "data.shuffle_users=true")) == 1
    assert len(lines("mini-aya/open", "data.swap_answers=true")) == 1


def test_a_loss_per_token_is_ranked_only_where_all_have_one_tokenizer():
    for track in TRACKS.values():
        if track.kind in ("open_base", "open"):
            assert not {"heldout", "preference_loss"} & set(track.ranked), track.id


def test_judged_metrics_are_ranked_on_the_board_of_a_judge_only():
    track = TRACKS["chatbot_it/fixed"]
    assert track.metrics("") == ["heldout", "advbench"]
    assert track.metrics("gpt-4")[2:] == ["mt_bench@gpt-4", "vicuna_bench@gpt-4", "ref_gpt4@gpt-4"]


def test_the_track_of_a_run():
    assert track_of(config()) == "mini-aya/fixed"
    assert track_of(config(dataset="wildchat", profile="paper")) == "wildchat/fixed"
    assert track_of(config(method="dp_fedavg")) == "mini-aya/private"
    assert track_of(config("lora.rank=4")) == "mini-aya/open_base"
    assert track_of(config("federation.rounds=2")) == "mini-aya/open"
    with pytest.raises(UserError, match="no track is of the data set 'mine'"):
        track_of(replace(config(), name="mine"))


def test_an_unknown_track_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mini-aya/fixed'"):
        find_track("mini-aya/fix")


@pytest.mark.parametrize("profile", sorted({*get_args(Profile)} - {*WITH_BOARDS}))
def test_no_track_takes_a_config_of_a_profile_without_a_board(profile):
    config = presets.load("aya", "fedavg", profile)
    for track in load_tracks().values():
        assert any(problem.message.startswith("profile: got") for problem in rule_problems(track, config)), track.id
