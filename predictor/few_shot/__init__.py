"""The few-shot predictor: closed-form adaptation to a device that is known by a few latencies."""
