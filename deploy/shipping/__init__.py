"""Ships a bundle to where engines run: a Triton repository, a KServe manifest, Dockerfiles, clients, a model hub.

The files in `files/` are the same for every bundle, except for the words in `$braces`, which `ship` fills in.
"""
