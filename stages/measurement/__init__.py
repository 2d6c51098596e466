"""What measuring stages share: splits, images for latency, accuracy in torch, verdicts."""
