"""Clients trained by workers of Ray, on one machine or many: the engine "ray" (docs/scaling.md)."""
