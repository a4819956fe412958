"""Which client trains on which rows."""
