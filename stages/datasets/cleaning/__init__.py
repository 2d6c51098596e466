"""Checks annotations, corrects them or leaves them out, and reports why."""
