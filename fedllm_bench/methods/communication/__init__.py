"""How messages and uploads travel: rounded, cut to their largest numbers, or summed without being seen."""
