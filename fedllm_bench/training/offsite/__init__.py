"""Offsite tuning: an emulator in the place of the middle layers of a model, and its alignment (docs/offsite.md)."""
