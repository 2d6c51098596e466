"""From an image to boxes on the photograph: reading, fitting, the engine, decoding."""
