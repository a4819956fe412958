"""Base models by name: what is declared of them, where they are had, and what must go with models made on them."""
