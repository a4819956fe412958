"""The model that trains: base, LoRA or all weights, PEFT layers, quantised layers."""
