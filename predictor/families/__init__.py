"""Families of models that a machine measures, so that its predictor can learn whole graphs."""
