"""FedLLM-Bench: the benchmark suite for federated learning of large language models."""

__version__ = "0.1.0"
