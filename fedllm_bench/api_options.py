"""The kinds of arguments and the options by name of :mod:`fedllm_bench.api`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from fedllm_bench.api_results import Run
from fedllm_bench.data.client_split import Split

AnyPath = str | os.PathLike[str]
AnyRun = Run | AnyPath
AnySplit = Split | AnyPath
Plugins = AnyPath | Sequence[AnyPath] | None
Settings = Mapping[str, Any]
Adapters = Literal["auto", "first", "all", "none"]


class RunOptions(TypedDict, total=False):
    """What `bench` and `grid` take beside their own arguments; None, or left out, is the default.

    profile: "mini" (the embedded world), "small" (a real model and users, minutes on a CPU), "gpu24" (one GPU of 24 GB)
             or "paper" (the published setting); by default "paper" with a GPU, else "mini"
    split:   a client split or its folder; by default that of the profile
    model:   the base model: a name of `fedllm-bench model list`, a folder, a GGUF file or an id of the hub; by default
             the profile's
    metrics: names of held-out metrics; by default those of the profile
    engine:  "inprocess" (the default), "ray" (docs/scaling.md), or "trl" (the slow reference)
    variant: "paper" (as the papers write it, the default) or "released" (as the published code does it)
    out:     the folder of all runs; by default "runs"
    plugins: files with methods, metrics or data sets of your own (docs/plugins.md); by default none
    """

    profile: str | None
    split: AnySplit | None
    model: AnyPath | None
    metrics: Sequence[str] | str | None
    engine: str | None
    variant: str | None
    out: AnyPath | None
    plugins: Plugins


class TuneOptions(RunOptions, total=False):
    """What `tune` takes beside its own arguments: the options of a run, and those of the search.

    search:   "tpe" (the default), "random" or "halving"
    fidelity: what halving gives little of first: "rounds" (the default) or "clients"
    metric:   what is chosen by; by default "heldout"
    confirm:  how many more seeds the chosen setting meets the default on; by default 3
    """

    search: str
    fidelity: str
    metric: str
    confirm: int


class DiversityOptions(TypedDict, total=False):
    """What `diversity` takes beside its own arguments.

    embedder:      "lsa", or a folder or name of sentence-transformers; by default one that fits the split
    tokenizer:     of lengths in tokens: "mini" (the default) or a folder
    quality_model: base model of IFD: "mini", a folder, an id of the hub, or "none"; by default one that is at hand
    max_rows:      about so many rows for embeddings and IFD, as a share of each client; by default all
    permutations:  of the test of heterogeneity (499)
    seed:          of samples, permutations and maps (0)
    device:        "auto" (the default), "cpu" or "cuda"
    """

    embedder: str | None
    tokenizer: str
    quality_model: str | None
    max_rows: int | None
    permutations: int
    seed: int
    device: str


class StatementOptions(TypedDict, total=False):
    """What `submit` takes beside its own arguments; all of it but `allow_dirty` becomes public.

    method:        the name of the row; by default that of the runs' method
    url:           the https address of a paper or code
    training_data: what was trained on; by default "only the split"
    date:          YYYY-MM-DD; by default today, UTC
    track:         such as "mini-aya/fixed"; by default what the runs fit
    adapters:      which ones go with it: "auto" (the default: all if each has at most 1 MiB), "first", "all", "none"
    adapter_url:   the https address where adapters are; "{seed}" stands for the seed
    allow_dirty:   take runs of code that no commit names (False)
    """

    method: str
    url: str
    training_data: str
    date: str
    track: str
    adapters: Adapters
    adapter_url: str
    allow_dirty: bool


def check_options(options: Mapping[str, object], known: type) -> None:
    """Raise a TypeError for an option that does not exist, as Python does for an argument."""
    if extra := sorted(options.keys() - known.__annotations__.keys()):
        raise TypeError(f"there is no option {extra[0]!r}; there are {', '.join(known.__annotations__)}")
