"""One cell from nothing to results.json, and many cells in processes of their own."""
