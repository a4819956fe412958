"""The sub-commands of `fedllm-bench`, one module each; heavy imports wait until a command runs."""
