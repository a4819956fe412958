"""The commands below `fedllm-bench data`, but for the two that only open a split."""
