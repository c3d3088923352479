"""The published few-shot latency tasks: tables, protocols, methods and their scores."""
