"""The recipe of the mini base model: tokenizer, pre-training on other worlds, and a manifest that says how.

python -m fedllm_bench.mini.pretrain --out FOLDER        (make mini-model)
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from fedllm_bench.common import files
from fedllm_bench.common.progress import track
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.mini import corpus
from fedllm_bench.mini.world import WorldQuestion
from fedllm_bench.training.batches import Batch, collate

log = logging.getLogger(__name__)
PAD, USER, ASSISTANT, END = SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
# Words keep their leading space and their combining marks (Telugu); numbers up to two digits become one
# token each, which a model of this size can add; Chinese is cut from Latin names.
WORDS = r" ?\p{Han}+| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Everything that the weights depend on, but the machine."""

    seed: int = 1
    vocabulary: int = 3072
    tokenizer_items: int = 60_000
    hidden: int = 128
    mlp: int = 384
    layers: int = 4
    heads: int = 4
    steps: int = 4800
    batch: int = 128
    lr: float = 4e-3
    lr_end: float = 1e-5
    warmup: int = 100
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip: float = 1.0
    batches_per_pool: int = 16  # rows of this many batches are sorted by length together


def train_tokenizer(recipe: PretrainRecipe) -> Any:
    """A byte-level BPE tokenizer on a corpus in which no name is frequent, so that syllables become tokens."""
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    items = itertools.islice(corpus.items(recipe.seed, known_names=False), recipe.tokenizer_items)
    texts = (text for item in items for text in (f" {item.prompt}", f" {item.completion}"))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=template_text("mini")
    )


def new_model(recipe: PretrainRecipe, vocabulary: int) -> Any:
    """A Llama model with tied embeddings, drawn from the recipe's seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws weights from the global generator
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def encode_items(items: Sequence[WorldQuestion], tokenizer: Any) -> list[TokenRow]:
    """As the template "mini" does (a test compares), without rendering it a million times."""
    prompts = tokenizer([f"{USER} {item.prompt}{ASSISTANT}" for item in items])["input_ids"]
    completions = tokenizer([f" {item.completion}{END}" for item in items])["input_ids"]
    return [
        TokenRow(np.array(p + c, np.int32), np.repeat([False, True], [len(p), len(c)]))
        for p, c in zip(prompts, completions, strict=True)
    ]


def batches(recipe: PretrainRecipe, tokenizer: Any, digest: Any) -> Iterator[Batch]:
    """Batches of rows of like length in random order; the text of every item goes into `digest`."""
    rng = np.random.default_rng([recipe.seed, 3])
    stream = corpus.items(recipe.seed)
    while True:
        pool = list(itertools.islice(stream, recipe.batch * recipe.batches_per_pool))
        for item in pool:
            digest.update(f"{item.prompt}\t{item.completion}\n".encode())
        rows = sorted(encode_items(pool, tokenizer), key=lambda row: len(row.ids))
        for place in rng.permutation(recipe.batches_per_pool):
            yield collate(rows[place * recipe.batch : (place + 1) * recipe.batch], torch.device("cpu"))


def losses(recipe: PretrainRecipe, model: Any, stream: Iterator[Batch], steps: int) -> Iterator[float]:
    """Train for the first `steps` steps of the recipe; yields the loss of each, in nats per counted token."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay
    )
    for step, batch in enumerate(itertools.islice(stream, steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(recipe, step)
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
        targets = batch.targets[:, 1:]
        counted = targets != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), targets[counted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        yield float(loss.detach())


def lr_at(recipe: PretrainRecipe, step: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.lr * min(1.0, step / recipe.warmup) * cosine + recipe.lr_end


def build(recipe: PretrainRecipe, out: Path) -> dict[str, Any]:
    """Train tokenizer and model, and write them with their manifest to `out`; returns the manifest."""
    tokenizer = train_tokenizer(recipe)
    model = new_model(recipe, len(tokenizer))
    digest = hashlib.sha256()
    stream = batches(recipe, tokenizer, digest)
    history = list(track(losses(recipe, model, stream, recipe.steps), "pre-train the mini base", recipe.steps))
    manifest = {
        "recipe": asdict(recipe),
        "recipe_hash": files.sha256_json(asdict(recipe)),
        "corpus_hash": digest.hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "first_losses": [round(loss, 4) for loss in history[:50]],
        "final_loss": round(float(np.mean(history[-100:])), 4),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    with files.new_folder(out) as folder:
        model.to(torch.float16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files.write_json(folder / "manifest.json", manifest)
    return manifest


def main() -> int:
    parser = argparse.ArgumentParser(description="Pre-train the mini base model (about ten minutes on 2 cores).")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "base")
    parser.add_argument("--steps", type=int, default=PretrainRecipe.steps, help="fewer, to try the recipe")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    manifest = build(PretrainRecipe(steps=args.steps), args.out)
    log.info("final loss %.4f nats per token, in %s", manifest["final_loss"], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
