"""Floor 1: what a device would measure."""
