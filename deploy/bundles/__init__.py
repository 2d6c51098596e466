"""The folder that is shipped: manifest, engine, model card, Triton's files."""
