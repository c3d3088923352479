"""The database: session, clock and tables."""
