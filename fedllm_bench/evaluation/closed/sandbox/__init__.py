"""Runs programs that a model wrote, shut off from this machine; docs/code.md says what that stops and what not."""
