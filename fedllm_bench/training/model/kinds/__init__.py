"""Kinds of adapters beside LoRA: virtual tokens, IA3 and bottlenecks, as layers that a client's tensors go into."""
