"""Laptime's own dataset: hundreds of models measured on the targets of a machine."""
