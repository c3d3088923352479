"""Searches submitted over HTTP."""
