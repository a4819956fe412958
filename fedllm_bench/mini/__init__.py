"""The embedded mini world: a seeded generator of raw rows, and the base model that reads them."""
