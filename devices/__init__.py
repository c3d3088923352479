"""Floor 0: what a device is, and what it did measure."""
