"""Models, latency queries and measurements."""
