"""Parts of Grid R-CNN."""
