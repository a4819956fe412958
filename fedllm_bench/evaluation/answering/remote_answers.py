"""Answers of a model behind an OpenAI-compatible address: several items at once, each turn after the ones before."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key, next_turn
from fedllm_bench.evaluation.answering.model_answers import conversation, failed_turn
from fedllm_bench.evaluation.judges.asking import ChatClient
from fedllm_bench.evaluation.judges.faults import NoReplyError
from fedllm_bench.evaluation.judges.finishes import Ending, ending
from fedllm_bench.evaluation.judges.preset import RequestLimits
from fedllm_bench.evaluation.judges.served import Served
from fedllm_bench.evaluation.judges.streak import Streak
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Finish, Prompt, Reply

TIMEOUT_SECONDS = 300.0  # of one request
FINISHES: dict[Ending, Finish] = {"whole": "stop", "cut": "length", "filtered": "filtered"}
Asked = tuple[Prompt, int, Future[Reply]]


def served_model(
    address: str, model: str, *, key_env: str, concurrency: int, timeout: float = TIMEOUT_SECONDS, tries: int = 6
) -> Served:
    """A model that answers. Its key may be missing: servers of one's own need none."""
    return Served(
        who="the model",
        model=model,
        base_url=address,
        limits=RequestLimits(concurrency=concurrency, timeout_seconds=timeout, tries=tries),
        key_env=key_env,
        needs_key=False,
        url_option="--endpoint",
        model_option="--model",
    )


@dataclass(frozen=True, kw_only=True)
class EndpointAnswerer:
    """Asks as many items at a time as `served` allows; the server applies its own chat template.

    `limit_name`: what the server calls the most new tokens. `left_out`: of "seed" and "temperature", what is not sent.
    With `is_named` a reply of another model, whose server does not list this one either, ends the work: some servers
    answer with whatever they have.
    A request that fails for good is a failed turn. Where the server is down, or refuses whatever it is asked, a
    :class:`UserError` ends the work; what was answered stays, and turns that failed so are asked again.
    """

    served: Served
    benchmark: str
    seed: int
    limit_name: str = "max_tokens"
    left_out: tuple[str, ...] = ()
    is_named: bool = False

    def __call__(self, prompts: Sequence[Prompt], done: Mapping[Key, AnsweredTurn]) -> Iterator[list[AnsweredTurn]]:
        waiting = (prompt for prompt in prompts if next_turn(prompt, done) is not None)
        with ChatClient(self.served) as client:
            yield from _Session(self, client, waiting, dict(done)).turns()

    @property
    def name(self) -> str:
        return self.served.model

    def options(self, prompt: Prompt, number: int) -> dict[str, Any]:
        """What is sent beside model and messages."""
        seed = seed_of(self.seed, self.benchmark, prompt.item_id, number)
        sent = {"temperature": prompt.temperature, self.limit_name: prompt.max_new_tokens, "seed": seed}
        return {name: value for name, value in sent.items() if name not in self.left_out}


@dataclass
class _Session:
    """`under_way` items have a turn that is being answered; `turns` are those that need no answer any more.

    `is_known`: whether the server is known to have the model that is asked.
    """

    answerer: EndpointAnswerer
    client: ChatClient
    waiting: Iterator[Prompt]
    done: dict[Key, AnsweredTurn]
    under_way: int = 0
    is_known: bool = False
    finished: queue.SimpleQueue[Asked] = field(default_factory=queue.SimpleQueue)

    def turns(self) -> Iterator[list[AnsweredTurn]]:
        """As they come. Failed ones are held back while it is not known whether the server refuses or fails all."""
        streak, held = Streak("the model", self.client.check_any), list[AnsweredTurn]()
        for _ in range(self.answerer.served.limits.concurrency):
            self._next_item()
        while self.under_way:
            turn = self._collected(streak)
            held.append(turn)
            if streak.is_replying and not streak.is_failing:
                yield held
                held = []
        streak.end()
        yield held

    def _next_item(self) -> None:
        if (prompt := next(self.waiting, None)) is not None:
            self.under_way += 1
            self._ask(prompt)

    def _ask(self, prompt: Prompt) -> None:
        number = next_turn(prompt, self.done)
        assert number is not None
        talk = conversation(prompt, self.done, number)
        messages: Messages = tuple({"role": said["role"], "content": said["content"]} for said in talk)
        future = self.client.run(self.client.reply(messages, self.answerer.options(prompt, number)))
        future.add_done_callback(lambda future: self.finished.put((prompt, number, future)))

    def _collected(self, streak: Streak) -> AnsweredTurn:
        """The next turn that is finished; its item's next turn, or another item, is asked in its place."""
        prompt, number, future = self.finished.get()
        turn = _turn(prompt, number, future, streak)
        if self.answerer.is_named and not self.is_known and future.exception() is None:
            self._check_name(future.result())
        self.done[turn.key] = turn
        if next_turn(prompt, self.done) is not None:
            self._ask(prompt)
        else:
            self.under_way -= 1
            self._next_item()
        return turn

    def _check_name(self, reply: Reply) -> None:
        """Raise a :class:`UserError` for a reply of another model. Older servers give all the base's name."""
        asked = self.answerer.name
        if reply.model not in ("", asked) and not self.client.lists(asked):
            raise UserError(f"--served: the server answered for {asked[:80]!a} with {reply.model[:80]!a}; start it "
                            "with that adapter under this name (docs/answers.md)")  # fmt: skip
        self.is_known = True


def _turn(prompt: Prompt, number: int, future: Future[Reply], streak: Streak) -> AnsweredTurn:
    try:
        reply = future.result()
    except NoReplyError as error:
        streak.failed(error)
        return failed_turn(prompt, number, str(error))
    streak.replied()
    finish, text, named = FINISHES.get(ending(reply.finish)), reply.text.strip(), f"finish_reason {reply.finish[:80]!r}"
    if finish is None:
        return failed_turn(prompt, number, f"the answer broke off ({named})")
    withheld = f"withheld by a content filter ({named})" if finish == "filtered" else ""
    if withheld and not text:
        return failed_turn(prompt, number, withheld)
    return AnsweredTurn(
        item_id=prompt.item_id,
        prompt_hash=prompt.hash,
        turn=number,
        text=text,
        tokens=reply.completion_tokens,
        finish=finish,
        reason=withheld,
    )


def seed_of(seed: int, benchmark: str, item_id: str, turn: int) -> int:
    """Of one request, below 2**31."""
    digest = hashlib.sha256("\0".join([str(seed), benchmark, item_id, str(turn)]).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
