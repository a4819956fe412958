"""From benchmarks and a model, here or behind an address, to records of answers."""
