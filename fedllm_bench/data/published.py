"""The five published client splits: where they stand in the zip, and what the paper says of them.

Ye et al., 2024 (arXiv:2406.04845), Table 1; Fed-Aya's sizes are from a log of the published code.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm_bench.common.errors import unknown

ROOT = "FedLLM-Bench-Data/"
ZIP_NAME = "FedLLM-Bench-Data.zip"
DRIVE_ID = "1hKv5A0ROmTQQkcsTcYogCUIeF7Ux1pmy"
ORDER_FILE = "client_order.json"  # of a converted split: the published schedules count clients in the order of the file
ADDRESS = f"https://drive.google.com/uc?id={DRIVE_ID}"
LICENCE = "CC-BY-NC-4.0 (the published sets); the rows keep their upstream's licence: "
AYA_SIZES = (
    *(421, 1576, 5016, 418, 1555, 365, 783, 935, 1223, 795, 516, 476, 447, 614, 361, 1363, 298, 1418, 809),
    *(192, 493, 289, 194, 139, 235, 209, 347, 713, 533, 417, 175, 492, 271, 418, 293, 223, 270, 221),
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published set; `mean` and `std` (population) are rows per client, None where none was printed."""

    title: str
    path: str  # below ROOT
    kind: Literal["sft", "chat", "preference"]
    upstream: str
    licence: str  # of the upstream
    clients: int
    samples: int
    mean: int | None = None
    std: int | None = None
    sizes: tuple[int, ...] = ()


ARENA, ARENA_LICENCE = "lmsys/chatbot_arena_conversations", "CC-BY-4.0 (prompts), CC-BY-NC-4.0 (answers)"
PUBLISHED: dict[str, Published] = {
    "aya": Published(
        title="Fed-Aya", path="Fed-Aya/aya_38c_25k.json", kind="sft",
        upstream="CohereForAI/aya_dataset", licence="Apache-2.0",
        clients=38, samples=25_513, mean=671, std=815, sizes=AYA_SIZES,
    ),
    "chatbot_it": Published(
        title="Fed-ChatbotIT", path="Fed-ChatbotIT/chatbotIT_237c_6k.json", kind="sft",
        upstream=ARENA, licence=ARENA_LICENCE, clients=237, samples=6_166, mean=26, std=33,
    ),
    "wildchat": Published(
        title="Fed-WildChat", path="Fed-WildChat/single_turn/wildchat_100c_53k.json", kind="sft",
        upstream="allenai/WildChat-1M", licence="ODC-BY", clients=100, samples=52_703, mean=527, std=477,
    ),
    "wildchat_multi": Published(
        title="Fed-WildChat (multi-turn)", path="Fed-WildChat/multi_turn/wildchat_50c.json", kind="chat",
        upstream="allenai/WildChat-1M", licence="ODC-BY", clients=50, samples=15_406,
    ),
    "chatbot_pa": Published(
        title="Fed-ChatbotPA", path="Fed-ChatbotPA/chatbotPA_747c_10k.json", kind="preference",
        upstream=ARENA, licence=ARENA_LICENCE, clients=747, samples=9_508, mean=13, std=21,
    ),
}  # fmt: skip
ALIASES = {"chatbot_arena": "chatbot_it", "chatbot_dpo": "chatbot_pa"}


def published(name: str) -> tuple[str, Published]:
    """The dataset's own name and what was published; a :class:`UserError` that names those there are."""
    name = ALIASES.get(name, name)
    if name not in PUBLISHED:
        raise unknown("published dataset", name, [*PUBLISHED, *ALIASES])
    return name, PUBLISHED[name]


def differences(facts: Published, sizes: Sequence[int]) -> list[str]:
    """What differs from the published numbers, one line each; `sizes` are rows per client in the file's order."""
    counted = [("clients", len(sizes), facts.clients), ("samples", sum(sizes), facts.samples)]
    lines = [f"{what}: {got} in the zip, {said} published" for what, got, said in counted if got != said]
    spread = [
        ("mean samples per client", statistics.fmean(sizes), facts.mean),
        ("population deviation of samples per client", statistics.pstdev(sizes), facts.std),
    ]
    # the table prints whole numbers, and does not say whether they are rounded or cut
    lines += [
        f"{what}: {got:.1f} in the zip, {said} published"
        for what, got, said in spread
        if said is not None and not -0.5 <= got - said < 1
    ]
    pairs = zip(sizes, facts.sizes, strict=False)
    wrong = [(i, got, said) for i, (got, said) in enumerate(pairs) if got != said]
    if wrong:
        i, got, said = wrong[0]
        lines.append(f"client sizes: {len(wrong)} of {len(facts.sizes)} differ, first client {i}: {got}, not {said}")
    return lines
