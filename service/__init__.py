"""Floor 3: who asked, what is queued, what is stored."""
