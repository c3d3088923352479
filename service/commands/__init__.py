"""The commands of `laptime`, one file a topic; `service.cli` puts them together."""
