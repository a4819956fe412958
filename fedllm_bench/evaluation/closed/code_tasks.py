"""How the programs of each of our tasks are run: language, limits, and the library that they are about."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedllm_bench.evaluation.closed.sandbox.programs import GIGABYTE, LANGUAGES, Limits

# 10 s are those of bigcode-evaluation-harness for HumanEvalPack; HumanEval's authors waited for 3 s, which a busy
# machine makes a lottery, so what counts here is the time of a core
USUAL = LANGUAGES["python"].limits
OF_DS1000 = replace(
    USUAL, cpu_seconds=60, wall_seconds=120.0, memory_bytes=4 * GIGABYTE, address_bytes=32 * GIGABYTE, processes=128
)


@dataclass(frozen=True, kw_only=True)
class CodeTask:
    """`library`: the module without which an item is unscored, "" for none."""

    language: str = "python"
    limits: Limits = USUAL
    library: str = ""


# the library in the rows -> the module that is imported
LIBRARIES = {
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "pytorch": "torch",
    "scipy": "scipy",
    "sklearn": "sklearn",
    "tensorflow": "tensorflow",
}
CODE_TASKS: dict[str, CodeTask] = {
    **dict.fromkeys(
        (
            "fedllm_humaneval",
            "fedllm_humaneval_fsllm",
            "fedllm_humaneval_instruct",
            "fedllm_humanevalfix",
            "fedllm_humanevalsynthesize",
            "fedllm_mbpp",
        ),
        CodeTask(),
    ),
    "fedllm_multipl_e_js": CodeTask(language="js", limits=LANGUAGES["js"].limits),
    "fedllm_multipl_e_cpp": CodeTask(language="cpp", limits=LANGUAGES["cpp"].limits),
    **{f"fedllm_ds1000_{name}": CodeTask(limits=OF_DS1000, library=module) for name, module in LIBRARIES.items()},
}
