"""Which packages are installed: those under fedllm_bench/, and top-level folders as packages within it (setup.cfg)."""

from setuptools import find_packages, setup

MAPPED = [
    "fedllm_bench.data_prep",
    "fedllm_bench.benchmarks",
    "fedllm_bench.benchmarks.clock",
    "fedllm_bench.benchmarks.perf",
    "fedllm_bench.benchmarks.perf.peer_apps",
    "fedllm_bench.board_data",
]

setup(packages=[*find_packages(include=["fedllm_bench", "fedllm_bench.*"]), *MAPPED])
