"""Which pairs need the reference: those that train by it, and those that are scored relative to the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.pairs import AnswerPart, whole
from fedllm_bench.runs import row_tokens
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import Bench, load_bench
from fedllm_bench.runs.row_tokens import PRESET_BETA, has_reference, referenced

OWN = "evaluation.metrics=likelihood_accuracy,likelihood_margin"


@pytest.fixture(scope="module")
def bench_of(pair_split, tiny_run_config, tmp_path_factory) -> Callable[..., Bench]:
    def load(*overrides: str, is_trial: bool = False) -> Bench:
        config = tiny_run_config("fedavg", "local.micro_batch=2", *overrides, dataset="chatbot_pa")
        return load_bench(Cell(config, pair_split, tmp_path_factory.mktemp("runs"), 1), is_trial=is_trial)

    return load


def with_values(bench: Bench) -> set[str]:
    return {name for name, part in bench.clients.tokens.items() if whole(part).reference is not None}


@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_without_a_reference_no_training_row_has_one_and_none_is_computed(kind, bench_of, monkeypatch):
    relative = bench_of(f"local.dpo_loss={kind}")
    assert with_values(relative) == {"heldout", "unseen"} == set(named(relative))
    assert has_reference(relative.cell, relative.model, named(relative))
    assert relative.settings.dpo_beta == PRESET_BETA
    monkeypatch.setattr(row_tokens, "with_reference", None)  # any call fails
    before = sorted((files.cache_root() / "reference").iterdir())
    own = bench_of(f"local.dpo_loss={kind}", OWN)
    assert with_values(own) == set() == set(named(own))
    assert sorted((files.cache_root() / "reference").iterdir()) == before


def named(bench: Bench) -> dict[str, object]:
    return dict(referenced(bench.config, bench.metrics, bench.clients.tokens))


@pytest.mark.parametrize("overrides", [(), ("local.dpo_loss=ipo",), ("local.loss=kto",), ("local.loss=kto", OWN)])
def test_losses_with_a_reference_have_it_in_all_parts(overrides, bench_of):
    bench = bench_of(*overrides)
    assert with_values(bench) == {"train", "heldout", "unseen"} == set(named(bench))


def test_all_losses_with_a_reference_share_it(bench_of):
    benches = [bench_of(), bench_of("local.loss=kto")]
    values = [whole(bench.clients.tokens["train"]).reference for bench in benches]
    assert (values[0] == values[1]).all()


def test_answers_are_rows_of_their_own_under_kto(bench_of, pair_split):
    dpo, kto = bench_of(), bench_of("local.loss=kto")
    part = kto.clients.tokens["train"]
    assert isinstance(part, AnswerPart)
    for client, rows in dpo.clients.train_rows.items():
        assert kto.clients.train_rows[client] == tuple(n for row in rows for n in (2 * row, 2 * row + 1))
    assert [item.tokens.reference for item in kto.items] == [item.tokens.reference for item in dpo.items]
    assert kto.settings.dpo_beta == kto.config.local.dpo_beta


def test_halves_of_a_vote_go_to_different_clients_where_that_is_asked_for(bench_of):
    whole_votes, split_votes = bench_of("local.loss=kto"), bench_of("local.loss=kto", "data.split_pairs=true")
    before, after = whole_votes.clients.train_rows, split_votes.clients.train_rows
    for client, rows in after.items():
        votes = Counter(n // 2 for n in rows)
        assert len(rows) == len(before[client])
        assert set(votes.values()) <= {1}
    assert whole_votes.cell.hash != split_votes.cell.hash


def test_a_trial_takes_zeros_where_a_reference_is_needed(bench_of):
    assert not whole(bench_of("local.loss=kto", is_trial=True).clients.tokens["train"]).reference.any()
    trial = bench_of("local.dpo_loss=orpo", is_trial=True)
    assert with_values(trial) == {"heldout", "unseen"}


REFUSED = {
    "kto of one row": (("local.loss=kto", "local.micro_batch=1"), r"local\.micro_batch=1: local\.loss=kto"),
    "kto of nothing": (("local.loss=kto", "local.kto_desirable=0", "local.kto_undesirable=0"), "nothing is left"),
    "split votes without kto": (("data.split_pairs=true",), r"data\.split_pairs=true: it is for local\.loss=kto"),
    "split and shuffled": (("local.loss=kto", "data.split_pairs=true", "data.shuffle_users=true"), "leave one of them"),
    "sft of pairs": (("local.loss=sft",), "data.task 'preference' needs 'dpo' or 'kto'"),
    "another loss": (("local.dpo_loss=simppo",), r"local\.dpo_loss .*got .simppo."),
    "kto under a loss of pairs": (("local.loss=kto", "local.dpo_loss=ipo"), r"dpo_loss=ipo: it belongs to .*loss=dpo"),
    "a margin of another loss": (
        ("local.simpo_gamma=1",),
        r"dpo_loss=simpo, and here is local\.dpo_loss=sigmoid; leave",
    ),
    "a margin under kto": (
        ("local.loss=kto", "local.simpo_gamma=1"),
        r"simpo_gamma=1.0: it belongs to local\.loss=dpo",
    ),
    "good answers of pairs": (("local.kto_desirable=2",), r"local\.kto_desirable=2.0: it belongs to local\.loss=kto"),
    "bad answers of pairs": (("local.kto_undesirable=2",), "loss=kto, and here is local.loss=dpo; leave it out"),
    "orpo as a loss": (("local.loss=orpo",), r"did you mean local\.dpo_loss=orpo\?"),
    "kto as a loss of pairs": (("local.dpo_loss=kto",), r"did you mean local\.loss=kto\?"),
    "a margin below 0": (("local.simpo_gamma=-1",), r"local\.simpo_gamma .*got -1"),
    "a weight that is not finite": (("local.kto_desirable=inf",), "local.kto_desirable"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_do_not_go_together_are_one_line(name, tiny_run_config):
    overrides, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as error:
        tiny_run_config("fedavg", *overrides, dataset="chatbot_pa")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_the_reference_engine_has_no_trainer_for_these(kind, tiny_run_config):
    with pytest.raises(UserError, match=rf"local\.dpo_loss={kind}: TRL has its trainer among its experiments"):
        tiny_run_config("fedavg", f"local.dpo_loss={kind}", dataset="chatbot_pa", engine="trl")


def test_a_grid_over_data_sets_may_name_an_objective_that_conversations_pass_over(tiny_run_config):
    config = tiny_run_config("fedavg", "local.dpo_loss=simpo", "local.simpo_gamma=1")
    assert config.local.loss == "sft"


def test_kto_of_conversations_is_refused(tiny_run_config):
    with pytest.raises(UserError, match=r"local\.loss: got 'kto', but data\.task 'sft' needs 'sft'"):
        tiny_run_config("fedavg", "local.loss=kto")
