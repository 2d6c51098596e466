"""From a graph to a target's engine: build, precision fallback, the fastest choice."""
