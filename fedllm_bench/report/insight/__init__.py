"""Text and figures of what diversity predicts."""
