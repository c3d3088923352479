"""All work that takes time: one state machine, one queue."""
