"""The meta-learned checkpoint that ships with the package; `laptime-predictor train` makes it."""
