"""What kernels cost on known runtimes, learned from measured models: what new targets are adapted from."""
