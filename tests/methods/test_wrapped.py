"""Wrappers pass every hook on, compose in one order, and are refused where there is nothing to wrap."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_type_hints

import pytest
from method_vectors import core
from senders import ALL, PRIVACY, SENDING

from fedllm_bench.common.errors import UserError
from fedllm_bench.methods import METHODS, VARIANTS
from fedllm_bench.methods.adapters.ranks import CutRanks
from fedllm_bench.methods.base import FedAvg, Phase
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import SmallDownloads, SmallUploads
from fedllm_bench.methods.privacy import Private
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.uploads import FrozenA
from fedllm_bench.methods.wrapped import Wrapped, find


def hooks() -> dict[str, Any]:
    return {
        name: function for name, function in vars(FedAvg).items() if inspect.isfunction(function) and name[0] != "_"
    }


@dataclass(frozen=True, kw_only=True)
class Recording(FedAvg):
    calls: list[tuple[Any, ...]] = field(default_factory=list)


def recorded(name: str) -> Any:
    def hook(self: Recording, *args: Any) -> Any:
        self.calls.append((name, *args))
        return f"answer of {name}"

    return hook


for hook_name in hooks():
    setattr(Recording, hook_name, recorded(hook_name))


@pytest.mark.parametrize("name", [name for name in hooks() if name != "phases"])
def test_every_hook_goes_to_the_inner_method(name):
    assert len(hooks()) == 20
    inner = Recording()
    arguments = [object() for _ in list(inspect.signature(hooks()[name]).parameters)[1:]]
    if name == "changes":
        arguments = ["update"]
    assert name in vars(Wrapped)
    assert getattr(Wrapped(inner=inner), name)(*arguments) == f"answer of {name}"
    assert inner.calls == [(name, *arguments)]


def test_phases_are_those_of_the_inner_method_each_in_the_wrapper():
    @dataclass(frozen=True, kw_only=True)
    class Twice(FedAvg):
        def phases(self, steps: int) -> tuple[Phase, ...]:
            return Phase(FedAvg(), (0,)), Phase(self, tuple(range(steps)))

    found = FrozenA(inner=Twice()).phases(3)
    assert found == (Phase(FrozenA(inner=FedAvg()), (0,)), Phase(FrozenA(inner=Twice()), (0, 1, 2)))


def test_every_attribute_is_that_of_the_inner_method():
    names = get_type_hints(FedAvg).keys() - {"of_one_round"}  # which each layer says for itself
    assert set(names) == {"weighting", "weightings", "personal", "sends", "needs_all", "pooled"}
    for kind in (*METHODS.values(), *VARIANTS["released"].values()):
        inner = kind.__new__(kind)  # constants do not matter
        for name, value in {"weighting": kind.weightings[0]}.items():
            object.__setattr__(inner, name, value)
        assert {n: getattr(Wrapped(inner=inner), n) for n in names} == {n: getattr(inner, n) for n in names}


def test_a_hook_is_changed_where_a_layer_changes_it(tiny_run_config):
    method = make_method(tiny_run_config("fedavg"))
    assert not method.changes("correct")
    half = partial(SmallUploads, codec=Codec(dtype="float16"))
    assert not half(inner=Wrapped(inner=method)).changes("correct")
    assert half(inner=FrozenA(inner=method)).changes("correct")
    assert half(inner=make_method(tiny_run_config("fedprox"))).changes("correct")
    assert not half(inner=make_method(tiny_run_config("fedprox"))).changes("after_step")


@pytest.mark.parametrize("name", SENDING)
def test_layers_lie_in_one_order_around_every_method(name, tiny_run_config):
    assert len(SENDING) >= 9
    method = make_method(tiny_run_config(name, *ALL, "communication.download_dtype=int8"))
    kinds = [type(method)]
    while isinstance(method, Wrapped):
        method = method.inner
        kinds.append(type(method))
    assert kinds == [Private, SmallUploads, SmallDownloads, FrozenA, METHODS[name]]


def test_without_settings_nothing_is_wrapped(tiny_run_config):
    bare = METHODS.keys() - {"dp_fedavg", "hetlora"}
    assert {name: type(make_method(tiny_run_config(name))) for name in bare} == {name: METHODS[name] for name in bare}
    assert type(make_method(tiny_run_config("hetlora"))) is CutRanks
    found = make_method(tiny_run_config("dp_fedavg"))
    assert isinstance(found, Private)
    assert find(found, Private) is found
    assert find(found, FrozenA) is None
    assert type(core(found)) is METHODS["dp_fedavg"]


@pytest.mark.parametrize(
    ("name", "settings", "options", "words"),
    [
        ("local", PRIVACY, {}, "privacy.*: local sends nothing"),
        ("central", PRIVACY, {}, "privacy.*: central has no clients"),
        ("local", ALL[-1:], {}, "communication.*: local sends nothing"),
        ("fedavg", PRIVACY, {"variant": "released"}, "variant=released is as published"),
        ("fedavg", ALL[-1:], {"variant": "released"}, "variant=released is as published"),
        ("fedavg", (*PRIVACY, "federation.weighting=examples"), {}, "--set federation.weighting=uniform"),
        ("fedavg", PRIVACY[:1], {}, "got neither of noise_multiplier and epsilon"),
        ("fedavg", (*PRIVACY, "privacy.epsilon=8"), {}, "got both of noise_multiplier and epsilon"),
        ("fedavg", ("privacy.epsilon=8",), {}, "privacy.epsilon=8.0 needs a bound on what one client sends"),
        ("dp_fedavg", ("privacy.clip=none", "privacy.noise_multiplier=none"), {}, "dp_fedavg needs a bound"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(name, settings, options, words, tiny_run_config):
    if options:
        settings = [s for s in settings if not s.startswith("federation")]
    config = tiny_run_config(name, *settings, **options)
    with pytest.raises(UserError) as caught:
        make_method(config, 6)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_noise_is_not_searched_without_the_number_of_clients(tiny_run_config):
    config = tiny_run_config("fedavg", "privacy.clip=1.0", "privacy.epsilon=8", "federation.weighting=uniform")
    with pytest.raises(ValueError, match="number of clients"):
        make_method(config)
