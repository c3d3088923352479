"""The published spaces as real networks."""
