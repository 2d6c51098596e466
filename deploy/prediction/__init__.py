"""From an image file to boxes in its pixels: reading, fitting, the engine, decoding."""
