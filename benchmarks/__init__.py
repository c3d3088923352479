"""Long-running commands that print a number the documentation states."""
