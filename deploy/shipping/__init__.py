"""What a bundle needs where people run engines: a Triton repository, a KServe manifest, Dockerfiles, clients, a model hub.

The files of `files/` are the same for every bundle, but for the words in `$braces`, which `ship` fills in.
"""
