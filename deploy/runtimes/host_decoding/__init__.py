"""Boxes from the raw outputs of a network, decoded and suppressed on the host."""
