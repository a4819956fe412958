"""From submissions to boards: tests, ranks and standing."""
