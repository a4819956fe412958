"""Parts of the commands that ask models."""
