"""Who attacks and what attackers send; a method of all others keeps its bits."""

from __future__ import annotations

import math

import pytest
import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.config.config_robust import Attack
from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.methods.communication.compression import SmallUploads
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.robust.attacks import Attacked, attackers_of, poisoned_rows
from fedllm_bench.methods.uploads import FrozenA
from fedllm_bench.methods.wrapped import Wrapped, find
from fedllm_bench.training.budget import Traffic

PARAMS = {"w": torch.zeros(200, 50), "b": torch.zeros(30)}
Y = {"w": torch.full((200, 50), 0.5), "b": torch.full((30,), -2.0)}


def attacked(kind: str, scale: float = 1.0, seed: int = 0) -> Attacked:
    return Attacked(inner=FedAvg(), kind=kind, scale=scale, attackers=frozenset({1, 4}), seed=seed)


def sent(method: Attacked, client: int, round_num: int = 0) -> Upload:
    server = Server(PARAMS, round=round_num)
    told = method.tell(server, client)
    state = {"own": PARAMS}
    kept, upload = method.finish({"params": PARAMS}, {**state, **told}, Y, PARAMS, 1, 0.1)
    assert kept["own"] is PARAMS
    return upload


@pytest.mark.parametrize(("kind", "factor"), [("sign_flip", -3.0), ("scaled", 3.0), ("trigger", 3.0), ("harmful", 3.0)])
def test_an_attacker_multiplies_what_it_sends_and_nobody_else_does(kind, factor):
    method = attacked(kind, 3.0)
    honest = sent(method, 0)
    assert torch.equal(honest["delta"]["w"], Y["w"])
    assert torch.equal(sent(method, 4)["delta"]["w"], Y["w"] * factor)
    assert torch.equal(sent(method, 1)["delta"]["b"], Y["b"] * factor)


def test_noise_is_as_long_as_the_upload_for_scale_1_and_a_function_of_seed_round_and_client():
    for scale in (1.0, 5.0):
        found = sent(attacked("noise", scale), 4)["delta"]
        for name, size in (("w", 10_000), ("b", 30)):
            rms = float(found[name].square().mean().sqrt())
            assert rms == pytest.approx(scale * float(Y[name].abs().mean()), rel=4 / math.sqrt(size))
        assert abs(float(found["w"].mean())) < 0.05 * scale
    one = sent(attacked("noise"), 4)["delta"]["w"]
    assert torch.equal(one, sent(attacked("noise"), 4)["delta"]["w"])
    for other in (sent(attacked("noise"), 1), sent(attacked("noise"), 4, 1), sent(attacked("noise", seed=1), 4)):
        assert not torch.equal(one, other["delta"]["w"])
    assert torch.equal(sent(attacked("noise"), 0)["delta"]["w"], Y["w"])


def test_nothing_more_travels_to_an_attacker_than_to_anybody():
    method = attacked("noise")
    server = Server(PARAMS)
    message = method.broadcast(server)
    assert num_bytes(method.travels(message, method.tell(server, 1))) == num_bytes(message)
    assert Traffic(method, PARAMS, 0.1).of_client(0, 1) == Traffic(FedAvg(), PARAMS, 0.1).of_client(0, 1)


def test_attackers_change_what_a_frozen_a_leaves_and_before_it_is_rounded(tiny_run_config):
    config = tiny_run_config(
        *("fedavg", "attack.kind=sign_flip", "attack.clients=0", "federation.weighting=uniform"),
        *("communication.upload_dtype=float16", "communication.lora_aggregation=frozen_a", "aggregation.rule=median"),
    )
    method, kinds = make_method(config, 6), []
    while isinstance(method, Wrapped):
        kinds.append(type(method).__name__)
        method = method.inner
    assert kinds == ["Robust", "SmallUploads", "Attacked", "FrozenA"]
    assert find(make_method(config, 6), SmallUploads) is not None
    assert find(make_method(config, 6), FrozenA) is not None


# --- who


def test_numbers_name_clients_and_a_share_is_dealt_by_the_seed():
    assert attackers_of(Attack(kind="noise", clients="3, 0,3"), 0, 5) == (0, 3)
    assert attackers_of(Attack(kind="noise", clients="1"), 0, 5) == (1,)
    assert attackers_of(Attack(kind="noise", clients="1.0"), 0, 5) == (0, 1, 2, 3, 4)
    assert attackers_of(Attack(), 0, 5) == ()
    few, more = (attackers_of(Attack(kind="noise", clients=share), 0, 38) for share in ("0.1", "0.3"))
    assert (len(few), len(more)) == (4, 11)
    assert set(few) < set(more)
    assert attackers_of(Attack(kind="noise", clients="0.1"), 1, 38) != few
    assert len(attackers_of(Attack(kind="noise", clients="0.001"), 0, 38)) == 1


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "0;3", "1.5", "0.0", "nan", "inf", "1e-1", "[0,3]", "0,,3", "٣", "9" * 10, "0.2,0.3", "²"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError) as caught:
        attackers_of(Attack(kind="noise", clients=text), 0, 5)
    assert "give numbers of clients, as in --set attack.clients=0,3, or a share" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clients_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match=r"attack.clients=2,5: there is no client 5, the split has 5 clients"):
        attackers_of(Attack(kind="noise", clients="2,5"), 0, 5)


def test_a_share_of_rows_is_poisoned_at_least_one_and_a_larger_share_holds_a_smaller_one():
    sizes = {2: 40, 5: 3}
    some, more = (poisoned_rows(Attack(rows=share), 0, sizes) for share in (0.1, 0.5))
    assert [len(rows) for rows in some.values()] == [4, 1]
    assert [len(rows) for rows in more.values()] == [20, 2]
    assert all(set(some[client]) <= set(more[client]) for client in sizes)
    assert poisoned_rows(Attack(rows=1.0), 0, sizes) == {2: tuple(range(40)), 5: (0, 1, 2)}
    assert poisoned_rows(Attack(rows=1.0), 0, {3: 0}) == {3: ()}


# --- what is refused

MEDIAN = ("aggregation.rule=median", "federation.weighting=uniform")
ERROR = "communication.aggregation_error=true"
TRIGGER = ("attack.kind=trigger", "attack.clients=0", "attack.trigger=abc", "attack.answer=yes")


@pytest.mark.parametrize(
    ("name", "settings", "options", "words"),
    [
        ("fedavg", ("attack.kind=noise",), {}, "attack.kind=noise: nobody attacks; give the numbers of clients"),
        (
            "fedavg",
            ("attack.clients=0,3",),
            {},
            "attack.clients=0,3: attack.kind=none has no use for it; give a kind too",
        ),
        ("fedavg", ("attack.scale=3",), {}, "attack.scale=3.0: attack.kind=none has no use for it"),
        ("fedavg", ("attack.kind=noise", "attack.clients=17"), {}, "there is no client 17, the split has 6 clients"),
        ("fedavg", ("attack.kind=scaled", "attack.clients=0"), {}, "a scale of 1 changes nothing"),
        ("fedavg", ("attack.kind=noise", "attack.clients=0", "attack.rows=0.5"), {}, "attack.rows=0.5"),
        ("fedavg", ("attack.kind=noise", "attack.clients=0", "attack.trigger=a"), {}, "attack.trigger=a: attack.kind"),
        ("fedavg", TRIGGER[:3], {}, "attack.answer: not given; trigger and answer go together"),
        ("fedavg", (*TRIGGER[:2], "attack.answer=a"), {}, "attack.trigger: not given; trigger and answer go together"),
        ("fedavg", ("attack.trigger=a",), {}, "attack.answer: not given"),
        ("fedavg", (*TRIGGER, "attack.trigger=a\x00b"), {}, "attack.trigger='a\\x00b': give words without control"),
        ("fedavg", (*TRIGGER, "attack.answer=a\nb"), {}, "attack.answer='a\\nb': give words without control"),
        ("fedavg", (*TRIGGER, "data.shuffle_users=true"), {}, "and so does data.shuffle_users=true"),
        ("fedavg", (*TRIGGER, "data.swap_answers=true"), {}, "and so does data.swap_answers=true"),
        ("local", ("attack.kind=noise", "attack.clients=0"), {}, "attack.*: local sends nothing"),
        ("central", ("attack.kind=noise", "attack.clients=0"), {}, "attack.*: central has no clients"),
        ("fedavg", ("attack.kind=noise", "attack.clients=0"), {"variant": "released"}, "released is as published"),
        ("local", ("aggregation.rule=median",), {}, "aggregation.*: local sends nothing"),
        ("fedavg", ("aggregation.rule=median",), {"variant": "released"}, "variant=released is as published"),
        ("fedavg", ("aggregation.rule=median", "federation.weighting=examples"), {}, "each client counts alike"),
        ("fedavg", ("aggregation.rule=krum",), {}, "aggregation.rule=krum needs aggregation.byzantine; give it, as in"),
        ("fedavg", ("aggregation.rule=trimmed_mean",), {}, "needs aggregation.trim"),
        ("fedavg", ("aggregation.rule=norm_bound",), {}, "needs aggregation.bound"),
        ("fedavg", ("aggregation.trim=0.2",), {}, "aggregation.trim=0.2 belongs to aggregation.rule=trimmed_mean"),
        ("fedavg", (*MEDIAN, "aggregation.byzantine=1"), {}, "belongs to aggregation.rule=krum or multi_krum or"),
        ("fedavg", (*MEDIAN, "aggregation.selected=1"), {}, "belongs to aggregation.rule=multi_krum"),
        ("fedavg", (*MEDIAN, ERROR), {}, "aggregation_error=true: it is what a mean of A and of B loses"),
        ("fedrep", (ERROR,), {}, "aggregation_error=true: fedrep keeps parts of A and B with its clients"),
        ("dp_fedavg", ("aggregation.rule=median",), {}, "with privacy the server adds clipped uploads up"),
        ("dp_fedavg", ("aggregation.rule=norm_bound", "aggregation.bound=1"), {}, "with privacy the server adds"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(name, settings, options, words, tiny_run_config):
    if options.get("variant") == "released":
        settings = [s for s in settings if not s.startswith("federation")]
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config(name, *settings, **options), 6)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "constants", "n", "words"),
    [
        ("krum", ("byzantine=3",), 8, "aggregation.byzantine=3 needs 2 f + 3 = 9 answers, not 8; give 2 or less"),
        ("multi_krum", ("byzantine=3",), 8, "aggregation.byzantine=3 needs 2 f + 3 = 9 answers, not 8"),
        ("multi_krum", ("byzantine=2", "selected=7"), 8, "selected=7 of 8 answers is more than n - f; give 6 or less"),
        ("bulyan", ("byzantine=2",), 8, "aggregation.byzantine=2 needs 4 f + 3 = 11 answers, not 8; give 1 or less"),
        ("krum", ("byzantine=0",), 2, "give another rule, or more clients a round (federation.clients_per_round is 2)"),
        ("trimmed_mean", ("trim=0.1",), 8, "aggregation.trim=0.1 cuts none of 8 values; give 0.125 or more"),
        ("trimmed_mean", ("trim=0.3",), 3, "aggregation.trim=0.3 cuts none of 3 values; give 0.334 or more"),
        ("trimmed_mean", ("trim=0.4",), 2, "aggregation.trim=0.4 cuts none of 2 values; give another rule"),
    ],
)
def test_a_rule_that_asks_for_more_answers_than_a_round_has_is_refused(rule, constants, n, words, tiny_run_config):
    more = [f"aggregation.{constant}" for constant in constants]
    config = tiny_run_config(
        *("fedavg", f"aggregation.rule={rule}", "federation.weighting=uniform"),
        *(f"federation.clients_per_round={n}", *more),
    )
    with pytest.raises(UserError) as caught:
        make_method(config, 20)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
