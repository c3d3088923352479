"""The daemon that runs on a device and works for a Laptime server."""
