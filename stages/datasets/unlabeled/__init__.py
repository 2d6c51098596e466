"""Images without labels: finding them, and leaving out those that are in the labeled data."""
