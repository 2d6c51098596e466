"""Backbones, feature pyramids, pretrained weights."""
