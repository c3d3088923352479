"""Data and training of the tasks that architectures are judged on."""
