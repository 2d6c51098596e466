"""How long an engine takes, and what bounds it."""
