"""Before a run starts: which profile, and for `paper`, what is missing and what to type instead."""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config.base_model import is_available, on_hub
from fedllm_bench.config.bases.declared import base_of
from fedllm_bench.config.bases.terms import needs_consent
from fedllm_bench.config.run import Model, Profile, RunConfig

CHOOSE = "choose:"  # a preset's model name for a base without an official copy on the hub
GATED = ("meta-llama/",)


def choose_profile(requested: str | None, cuda: bool) -> tuple[str, str]:
    """The profile of this run, and a sentence that says why and how to get the other one."""
    if requested is not None and requested not in get_args(Profile):
        raise unknown("profile", requested, get_args(Profile))
    profile = requested or ("paper" if cuda else "mini")
    found = "a CUDA GPU was found" if cuda else "no CUDA GPU was found"
    why = "as asked" if requested else found
    other = {
        "mini": "for a real model and real users, add PROFILE=small (--profile small); for the published setting, "
        "PROFILE=paper",
        "small": "for the published setting, add PROFILE=paper (--profile paper)",
        "gpu24": "for the published setting, add PROFILE=paper (--profile paper)",
        "paper": "for minutes, add PROFILE=small (a real model and real users) or PROFILE=mini (the embedded world)",
    }[profile]
    return profile, f"Profile {profile}: {why}; {other}."


def paper_problems(
    config: RunConfig,
    *,
    cuda: bool,
    model_found: bool,
    split_found: bool,
    method_ready: bool = True,
    bfloat16: bool = True,
) -> list[str]:
    """One line for each thing that profile paper lacks, with what to type instead; [] when it can start."""
    bench = f"make bench DATASET={config.dataset} METHOD={config.method.name}"
    problems = []
    if not method_ready:
        problems.append(
            f"method: {config.method.name} cannot run here yet; type: make bench DATASET={config.dataset} METHOD=fedavg"
        )
    if not cuda:
        problems.append(
            f"GPU: no CUDA GPU was found; without one, type: {bench} PROFILE=small, or PROFILE=mini for "
            "the embedded world"
        )
    elif not bfloat16 and config.model.dtype == "bfloat16":
        problems.append(
            "GPU: it has no bfloat16 arithmetic (that begins with Ampere, compute capability 8.0); "
            f'type: {bench} PROFILE=paper SET="model.dtype=float32"'
        )
    if problem := quantization_problem(config.model):
        problems.append(f"package: {problem}")
    if not model_found:
        problems.append(f"model: {_model_problem(config, bench)}")
    if not split_found:
        problems.append(f"split: {_split_problem(config, bench)}")
    return problems


def quantization_problem(model: Model) -> str | None:
    """What a quantised base lacks here; None where nothing is missing."""
    if model.quantization == "none" or find_spec("bitsandbytes") is not None:
        return None
    return (
        f"model.quantization={model.quantization} needs the package bitsandbytes; "
        "type: pip install 'fedllm-bench[quantized]'"
    )


def check_quantization(model: Model) -> None:
    """Raise a :class:`UserError` where a quantised base cannot be loaded here."""
    if problem := quantization_problem(model):
        raise UserError(problem)


def check_device_map(model: Model, cuda: bool) -> None:
    """Raise a :class:`UserError` where a base is to be spread over GPUs, and there is none."""
    if model.device_map and not cuda:
        raise UserError(
            f"model.device_map={model.device_map}: it spreads a base over GPUs, and no CUDA GPU was found; leave it out"
        )


def _model_problem(config: RunConfig, bench: str) -> str:
    name = config.model.name
    other = f"{bench} PROFILE=paper MODEL="
    if name.startswith(CHOOSE):
        return (
            f"{name.removeprefix(CHOOSE)} is published only as a weight difference; "
            f"choose a merged copy: {other}<hub id or folder>"
        )
    base, repository = base_of(name), on_hub(name)[0]
    if repository.startswith(GATED):
        fetch = f"fedllm-bench model get {name}" if base else f"hf download {name}"
        return (
            f"{name} is not in the local cache and is gated; accept its licence on "
            f"https://huggingface.co/{repository}, then type: hf auth login && {fetch}; "
            f"or take an open one: {other}<hub id or folder>"
        )
    if base is not None:
        accept = " --accept-terms" if needs_consent(base) else ""
        return f"{name} is not in the local cache; type: fedllm-bench model get {name}{accept}"
    return (
        f"{name} is neither a model folder nor in the local cache; type: hf download {name}; "
        f"or take another one: {other}<hub id or folder>"
    )


def _split_problem(config: RunConfig, bench: str) -> str:
    found = f"{config.split} is no split" if config.split else f"no split of {config.dataset} was given"
    rows = f" (rows of {config.data.upstream})" if config.data.upstream else ""
    build = f"fedllm-bench data build {config.dataset} --raw FILE_OR_FOLDER --out DIR"
    return f"{found}; build one: {build}{rows}, then type: {bench} PROFILE=paper SPLIT=DIR"


def model_available(name: str, revision: str | None = None) -> bool:
    """Whether `name` is the embedded model, a base or a model that is in a cache, a folder, or a GGUF file.

    Nothing is fetched, and a cached config.json is taken as a sign of the whole model.
    """
    return is_available(name, revision)
