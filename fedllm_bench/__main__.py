"""`python -m fedllm_bench` is the command `fedllm-bench`."""

from fedllm_bench.cli import entry

entry()
