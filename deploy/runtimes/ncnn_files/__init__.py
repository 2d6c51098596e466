"""Parts of the runtime ncnn: its file, and the conversion to it."""
