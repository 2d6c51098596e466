"""A first pipeline.yaml: what a folder holds, what this machine can do, and the choices that follow from both."""
