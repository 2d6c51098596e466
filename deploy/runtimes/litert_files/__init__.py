"""Parts of the runtime litert: the conversion of a graph, and the file that is written."""
