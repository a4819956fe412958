"""The space of a search: what each form means, and that what is none is refused in one line."""

from __future__ import annotations

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.tuning.space import Dimension, parse_space


def test_each_form_is_read():
    text = "method.mu=log:1e-3..1 local.weight_decay=0..0.1 local.steps=int:2..8 local.optimizer=choice:adamw,sgd"
    mu, decay, steps, optimizer = parse_space(text)
    assert (mu.key, mu.kind, mu.low, mu.high) == ("method.mu", "log", 1e-3, 1.0)
    assert (decay.kind, decay.ends) == ("linear", (0.0, 0.1))
    assert (steps.kind, steps.ends) == ("int", (2, 8))
    assert all(type(end) is int for end in steps.ends)
    assert (optimizer.kind, optimizer.choices) == ("choice", ("adamw", "sgd"))
    assert parse_space(["local.lr=log:.01..1", "lora.rank=choice:4,8"])[1].choices == (4, 8)
    assert mu.words == "method.mu between 0.001 and 1 on a logarithmic scale"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("local.lr", "no setting with values"),
        ("=1..2", "no setting with values"),
        ("local.lr=", "no setting with values"),
        ("local.lr=1e-3", "no range of numbers A..B"),
        ("local.lr=log:1e-3..", "no range of numbers A..B"),
        ("local.lr=a..b", "no range of numbers A..B"),
        ("local.lr=1..2..3", "no range of numbers A..B"),
        ("local.lr=nan..1", "no range of numbers A..B"),
        ("local.lr=1..inf", "no range of numbers A..B"),
        ("local.lr=1..1e999", "both must be finite"),
        ("local.lr=2..1", "the first number must be below the second"),
        ("local.lr=1..1", "the first number must be below the second"),
        ("local.lr=log:0..1", "begins above 0"),
        ("local.lr=log:-1..1", "begins above 0"),
        ("local.steps=int:1.5..3", "takes whole numbers"),
        ("local.steps=int:1..1e12", "takes whole numbers"),
        ("local.lr=lg:1..2", "no kind 'lg'"),
        ("local.lr=uniform:1..2", "no kind 'uniform'"),
        ("local.optimizer=choice:", "single values with commas between"),
        ("local.optimizer=choice:adamw,,sgd", "single values with commas between"),
        ("lora.targets=choice:q_proj,v_proj", "single values with commas between"),
        ("local.optimizer=choice:adamw", "two or more values, each once"),
        ("local.optimizer=choice:sgd,sgd", "two or more values, each once"),
        ("local.lr=1..2 local.lr=2..3", "local.lr stands twice"),
        ("data.world_seed=int:100..200", "it says on what is trained"),
        ("model.name=choice:mini,x", "it says what is trained"),
        ("evaluation.batch_tokens=int:1..9", "it says what is measured"),
        ("local.sequence_length=int:64..256", "it says which tokens are measured"),
        ("ray.workers=int:1..2", "changes no result"),
        ("attack.scale=log:1..10", "it says who attacks"),
        ("communication.budget_mb=choice:none,1", "none is not searched; leave it out"),
        ("local.lr=log:1e-3..1.000001e-3", "with 4 digits, and with these both ends are 0.001"),
        ("local.lr=choice:1,1.0", "two or more values, each once"),
        (f"local.lr=choice:{','.join(map(str, range(1, 102)))}", "101 values are too many; give at most 100"),
        (f"local.lr={'9' * 5000}..1", "both must be finite"),
        (f"{'k' * 5000}=1", "no range of numbers"),
        (f"local.lr={'k' * 5000}:1..2", "no kind 'kkk"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(text, expected):
    with pytest.raises(UserError) as error:
        parse_space(text)
    assert expected in str(error.value)
    assert "--space" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_rounded_numbers_stay_between_the_ends():
    dimension = Dimension(key="local.lr", kind="log", low=0.0012347, high=0.98764321)
    assert dimension.rounded(0.123456789) == 0.1235
    assert dimension.rounded(0.00123471) == 0.001235
    assert dimension.rounded(0.98762) == 0.9876
    low = Dimension(key="local.lr", kind="linear", low=0.00123449, high=1.0)
    assert low.rounded(0.0012345) == low.low  # four digits would lie below the range
    assert all(dimension.holds(value) for value in dimension.ends)


def test_a_value_of_another_type_is_not_in_the_space():
    optimizer = Dimension(key="a", kind="choice", choices=(1, 2))
    steps = Dimension(key="a", kind="int", low=1, high=4)
    assert optimizer.holds(1)
    assert not optimizer.holds(True)
    assert not optimizer.holds(1.0)
    assert steps.holds(4)
    assert not steps.holds(2.5)
    assert not steps.holds("2")
    assert not steps.holds(True)
