"""The contents of the commands' answers: summaries, tables, verdicts, history, ablations."""
