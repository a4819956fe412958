"""Run folders: what one cell leaves behind, read and written in one place."""
