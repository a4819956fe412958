"""A virtual clock: who is at work when, from which model, and when the server goes on, all known before training."""
