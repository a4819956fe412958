"""Diversity of embeddings: encoders, their cache, distances between clients, clusters and maps."""
