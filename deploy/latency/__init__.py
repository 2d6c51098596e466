"""Latency of an engine, and its lower bound."""
