"""The client split format, tokenising, templates and the embedded mini world."""
