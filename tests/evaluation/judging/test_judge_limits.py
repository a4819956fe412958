"""Rate limits, cost and the window: what is promised holds however requests come."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from fedllm_bench.common import progress
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.cost import Budget, estimate, most_dollars, price_of, prompt_tokens
from fedllm_bench.evaluation.judges.faults import NoReplyError, OverBudgetError
from fedllm_bench.evaluation.judges.limiter import Limiter
from fedllm_bench.evaluation.judges.preset import Preset, Price, RequestLimits
from fedllm_bench.evaluation.judges.questions import Question, Slot
from fedllm_bench.evaluation.judges.streak import MOST_GIVEN_UP, MOST_REFUSED
from fedllm_bench.evaluation.judges.window import NOT_AFFORDED, outcomes
from fedllm_bench.evaluation.records import Reply
from fedllm_bench.leaderboard.tiers import rejudging

MESSAGES = ({"role": "user", "content": "ü" * 350},)
PRICE = Price(input=10, output=30)
PAID = Preset(name="p", model="m", base_url="https://x.org/v1", options={"max_tokens": 100}, price=PRICE)


async def _starts(limits: RequestLimits, tokens: list[float]) -> list[float]:
    """When each of so many requests may go out, in seconds from the first."""
    limiter, began, starts = Limiter(limits), time.monotonic(), list[float]()

    async def one(size: float) -> None:
        await limiter.wait(size)
        starts.append(time.monotonic() - began)

    await asyncio.gather(*(one(size) for size in tokens))
    return starts


def test_requests_a_minute_are_spaced_evenly() -> None:
    starts = asyncio.run(_starts(RequestLimits(requests_per_minute=1200), [1.0] * 6))
    assert all(start >= 0.05 * n - 1e-3 for n, start in enumerate(starts))
    assert starts[-1] < 10  # not as if a minute were a second: the machine may be busy


def test_tokens_a_minute_space_requests_by_their_size() -> None:
    starts = asyncio.run(_starts(RequestLimits(tokens_per_minute=60_000), [100.0, 50.0, 50.0]))
    assert all(start >= least - 1e-3 for start, least in zip(starts, [0, 0.1, 0.15], strict=True))
    assert starts[-1] < 10  # not as if a minute were a second: the machine may be busy


def test_without_limits_nobody_waits() -> None:
    assert max(asyncio.run(_starts(RequestLimits(), [1e9] * 100))) < 10


def test_a_pause_holds_those_that_wait_already() -> None:
    async def held() -> float:
        limiter, began = Limiter(RequestLimits(requests_per_minute=6000)), time.monotonic()
        await limiter.wait(1)
        waiting = asyncio.create_task(limiter.wait(1))
        await asyncio.sleep(0)
        limiter.hold(0.2)
        await waiting
        return time.monotonic() - began

    assert asyncio.run(held()) >= 0.19


def test_an_estimate_is_of_bytes_and_a_stated_length_of_replies() -> None:
    tokens = prompt_tokens(MESSAGES)
    assert tokens == 700 / 3.5 + 8
    expected = estimate(PAID, [tokens] * 10)
    assert (expected.requests, expected.prompt_tokens, expected.completion_tokens) == (10, 2080, 1000)
    assert expected.dollars == pytest.approx((2080 * 10 + 1000 * 30) / 1e6)
    unknown = Preset(name="p", model="m", base_url="https://x.org/v1")
    assert estimate(unknown, [1.0]).dollars is None
    assert estimate(unknown, [1.0]).completion_tokens == 300
    assert estimate(Preset(name="p", model="m", base_url="http://localhost:1/v1"), [1.0]).dollars == 0


def test_no_request_costs_more_than_is_set_aside_for_it() -> None:
    """A token has at least a byte, and a reply at most what the options allow."""
    dearest = Reply(text="", prompt_tokens=700 + 8, completion_tokens=100)
    price = price_of(PAID, dearest)
    assert price is not None
    assert most_dollars(PAID, MESSAGES) >= price
    assert price_of(PAID, Reply(text="without usage")) is None


def test_a_budget_lets_nothing_out_that_it_might_not_cover() -> None:
    async def spend() -> tuple[float, int]:
        budget, served = Budget(1.0), 0

        async def one(number: int) -> None:
            nonlocal served
            await budget.set_aside(0.3)
            assert budget.spent + budget._set_aside <= 1.0 + 1e-9
            await asyncio.sleep(0.001 * (number % 3))
            served += 1
            budget.settle(0.3, 0.3 if number % 2 else 0.05)

        results = await asyncio.gather(*(one(number) for number in range(20)), return_exceptions=True)
        assert {type(result) for result in results} == {type(None), OverBudgetError}
        return budget.spent, served

    spent, served = asyncio.run(spend())
    assert 0.7 < spent <= 1.0
    assert served >= 3


class Scripted:
    """A judge that answers at once, and knows how many questions it was given before the first was done."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors, self.given = errors, 0

    def submit(self, question: Question) -> Future[Reply]:
        future: Future[Reply] = Future()
        error = self.errors.get(self.given)
        self.given += 1
        if error:
            future.set_exception(error)
        else:
            future.set_result(Reply(text="[[1]]"))
        return future

    def check_any(self) -> None:
        raise AssertionError("nothing was refused")


def _questions(count: int, taken: list[int]) -> Iterator[Question]:
    for number in range(count):
        taken.append(number)
        yield Question(Slot(str(number), 1), MESSAGES)


def test_no_more_questions_are_in_memory_than_the_window_is_wide() -> None:
    taken: list[int] = []
    for done, _ in enumerate(outcomes(Scripted({}), _questions(500, taken), 7), start=1):
        assert len(taken) <= done + 7
    assert done == len(taken) == 500


def test_the_window_ends_where_the_money_ends() -> None:
    taken: list[int] = []
    found = list(outcomes(Scripted({10: OverBudgetError()}), _questions(500, taken), 4))
    assert len(found) == len(taken) < 20
    assert [outcome.reason for outcome in found].count(NOT_AFFORDED) == 1


def test_questions_that_fail_in_a_row_end_the_command_and_others_do_not() -> None:
    gone = NoReplyError("500", gave_up=True)
    spread = dict.fromkeys(range(0, 500, 2), gone) | {1: NoReplyError("too long")}
    assert len(list(outcomes(Scripted(spread), _questions(500, []), 4))) == 500
    with pytest.raises(UserError, match=f"{MOST_GIVEN_UP} questions in a row"):
        list(outcomes(Scripted(dict.fromkeys(range(3, 50), gone)), _questions(500, []), 4))


def test_refusals_end_the_command_only_where_something_plain_is_refused_too() -> None:
    ended = UserError("refused whatever it was asked")
    refused = NoReplyError("400", shared=ended)

    class Refusing(Scripted):
        checks = 0

        def check_any(self) -> None:
            self.checks += 1
            if not self.takes_plain:
                raise ended

        takes_plain = True

    every = dict.fromkeys(range(500), refused)
    judge = Refusing(every)
    assert len(list(outcomes(judge, _questions(500, []), 4))) == 500
    assert judge.checks == 1  # once is enough
    judge.takes_plain = False
    for count in (1, MOST_REFUSED - 1, 500):
        judge.given = 0
        with pytest.raises(UserError, match="whatever it was asked"):
            list(outcomes(judge, _questions(count, []), 4))
        assert judge.given <= MOST_REFUSED + 4
    late = Refusing(dict.fromkeys(range(1, 500), refused))
    late.takes_plain = False
    assert len(list(outcomes(late, _questions(500, []), 1))) == 500  # one reply has shown that requests are taken
    assert late.checks == 0


def test_judging_again_goes_on_without_what_the_judges_server_refuses() -> None:
    """Else a maintainer could never judge a submission again of which a filter withholds one item."""
    judge = Scripted({1: NoReplyError("filtered", shared=UserError("all"))})
    judge.preset, judge.stored = PAID, lambda question: None  # type: ignore[attr-defined]
    assert rejudging._replies(judge, _questions(3, [])) == {}  # type: ignore[arg-type]
    judge = Scripted({1: NoReplyError("500", gave_up=True)})
    judge.preset, judge.stored = PAID, lambda question: None  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="did not reply to 1 questions"):
        rejudging._replies(judge, _questions(3, []))  # type: ignore[arg-type]


def test_progress_shows_the_cost_so_far(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    spent = iter(["$0.10", "$0.10", "$0.20", "$0.20"])
    with caplog.at_level("INFO"):
        assert list(progress.track([1, 2, 3], "judge", 3, note=lambda: next(spent))) == [1, 2, 3]
    assert [message.rpartition(", ")[2] for message in caplog.messages[:2]] == ["$0.10", "$0.20"]


def test_help_loads_neither_openai_nor_torch() -> None:
    code = (
        "import sys, fedllm_bench.cli as cli\ntry: cli.main(['judge', '--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', sorted(sys.modules.keys() & {'openai', 'torch', 'transformers', 'httpx', 'httpx2'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
