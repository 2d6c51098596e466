"""A prepared split as arrays in files, which all processes map instead of parsing annotations."""
