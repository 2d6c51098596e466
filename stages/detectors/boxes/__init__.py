"""Boxes: coding and suppression."""
