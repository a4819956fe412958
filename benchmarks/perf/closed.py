"""Likelihood requests of MMLU's shape: the suite's model behind lm-eval beside lm-eval's own HFLM.

    python benchmarks/perf/closed.py [--questions 480] [--hidden 64] [--layers 2] [--turns 2]

Questions behind five examples of their subject, four one-letter choices each, as MMLU's 14,042: 57 subjects, of which
as many are asked as the share of questions needs, with all of a subject's. Words are random. HFLM answers with batches
of one, with a batch size of its own choice ("auto", which first tries sizes, at the price of some 300 questions), and
with the size that it chooses on a CPU. Each turn runs them one after another. Shown are the medians of seconds of
processors, which other work on the machine does not change, and those of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WHOLE, SUBJECTS = 14042, 57
SHOTS, WORDS_OF_QUESTION, WORDS_OF_CHOICE = 5, 14, 3  # about 120 tokens a question


def questions(count: int) -> list[tuple[str, str]]:
    """Contexts and continuations, four for each question, in the order in which lm-eval asks."""
    rng = random.Random(0)
    per_subject = WHOLE // SUBJECTS
    words = ["".join(rng.choices("abcdefghilmnoprstuvz", k=rng.randint(2, 9))) for _ in range(2000)]
    found: list[tuple[str, str]] = []
    for number in range(count):
        if number % per_subject == 0:
            shots = "\n\n".join(_question(rng, words) + f" {rng.choice('ABCD')}" for _ in range(SHOTS))
        context = f"The following are multiple choice questions (with answers).\n\n{shots}\n\n{_question(rng, words)}"
        found += [(context, f" {letter}") for letter in "ABCD"]
    return found


def _question(rng: random.Random, words: list[str]) -> str:
    lines = [" ".join(rng.choices(words, k=WORDS_OF_QUESTION))]
    lines += [f"{letter}. " + " ".join(rng.choices(words, k=rng.randint(1, 2 * WORDS_OF_CHOICE))) for letter in "ABCD"]
    return "\n".join([*lines, "Answer:"])


def tiny(folder: Path, hidden: int, layers: int) -> Any:
    """A random Llama with the tokenizer of the embedded base."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from fedllm_bench.config import base_model
    from fedllm_bench.config.run import Lora, Model
    from fedllm_bench.training.model.lora_model import load_model

    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 32),
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(Model(name=str(folder), dtype="float32"), Lora(rank=1, alpha=1, dropout=0.0, targets=("q_proj",)))


def requests(pairs: list[tuple[str, str]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("task", number, 1))
        for number, pair in enumerate(pairs)
    ]


def ways(model: Any, folder: Path) -> dict[str, Callable[[list[Any]], Any]]:
    from lm_eval.models.huggingface import HFLM

    from fedllm_bench.common.ledger import Ledger
    from fedllm_bench.evaluation.answering.budget import batch_tokens
    from fedllm_bench.evaluation.closed.lm import ResidentLM
    from fedllm_bench.evaluation.closed.texts import ClosedTexts

    def ours(asked: list[Any]) -> Any:
        kept = Ledger(folder / f"kept-{time.monotonic_ns()}", "speed")  # nothing is kept from turn to turn
        return ResidentLM(model, ClosedTexts(model.tokenizer), kept, batch_tokens(model), "speed").loglikelihood(asked)

    def theirs(batch_size: int | str) -> Callable[[list[Any]], Any]:
        lm = HFLM(pretrained=model.base, tokenizer=model.tokenizer, batch_size=batch_size)
        return lambda asked: lm.loglikelihood(asked, disable_tqdm=True)

    return {"HFLM, batch 1": theirs(1), "HFLM, batch auto": theirs("auto"), "HFLM, batch 64": theirs(64), "ours": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=480, help=f"of MMLU's {WHOLE}")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    pairs = questions(args.questions)
    with TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        model = tiny(folder / "model", args.hidden, args.layers)
        tokens = len(model.tokenizer(pairs[0][0])["input_ids"])
        share = 100 * args.questions / WHOLE
        about = f"hidden {args.hidden}, {args.layers} layers, {args.threads} thread(s)"
        sys.stdout.write(
            f"{len(pairs)} requests ({share:.1f}% of MMLU's), contexts of about {tokens} tokens, {about}\n"
        )
        seconds: dict[str, list[tuple[float, float]]] = {}
        answers = {}
        for _ in range(args.turns):
            for way, answer in ways(model, folder).items():
                started = time.process_time(), time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    answers[way] = answer(requests(pairs))
                found = time.process_time() - started[0], time.perf_counter() - started[1]
                seconds.setdefault(way, []).append(found)
    _show(seconds, answers)


def _show(seconds: dict[str, list[tuple[float, float]]], answers: dict[str, Any]) -> None:
    medians = {way: statistics.median(cpu for cpu, _ in found) for way, found in seconds.items()}
    values = {way: [value for value, _ in found] for way, found in answers.items()}
    for way, median in medians.items():
        apart = max(abs(a - b) for a, b in zip(values[way], values["ours"], strict=True))
        clock = statistics.median(clock for _, clock in seconds[way])
        ratio = median / medians["ours"]
        times = f"{median:7.1f} s of processors, {clock:7.1f} of the clock"
        sys.stdout.write(f"{way:<18} {times}   {ratio:5.2f} times ours   apart by {apart:.1e}\n")


if __name__ == "__main__":
    main()
