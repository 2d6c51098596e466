"""Images of digits, composed from files inside other packages."""
