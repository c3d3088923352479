"""Strategies: each proposes genomes and learns from trials."""
