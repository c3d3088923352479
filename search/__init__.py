"""Floor 2: which architectures are worth measuring."""
