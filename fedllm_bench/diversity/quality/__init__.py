"""Quality of rows: duplicates and instruction-following difficulty."""
