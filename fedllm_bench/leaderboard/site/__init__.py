"""From boards to a site of plain pages."""
