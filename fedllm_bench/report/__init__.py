"""Results as tables, figures and JSON."""
