"""Configuration, command line, store and flow."""
