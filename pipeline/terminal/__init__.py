"""What commands read from and write to a terminal: arguments, answers, refusals."""
