"""The process that adapts predictors and runs searches."""
