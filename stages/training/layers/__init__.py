"""What is done to a network's layers before it runs: compiled, folded, normalized over all processes."""
