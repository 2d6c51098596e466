"""The stages of the pipeline: artifacts in, one artifact out."""
