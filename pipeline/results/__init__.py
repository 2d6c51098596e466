"""What commands answer with: summaries, tables, verdicts, history, ablations."""
