"""What is trained beside a frozen base: LoRA, or another kind of adapter."""
