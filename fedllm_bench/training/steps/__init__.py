"""One local step of a block: its passes through the base, and the steps that need no backward pass."""
