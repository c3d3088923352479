"""Devices, targets and the agents' side of the API."""
