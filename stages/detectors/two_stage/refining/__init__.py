"""Parts of detectors whose second stages refine their proposals, as in mmdet."""
