"""From scores to results.json and grid.json: numbers and their schema, no text."""
