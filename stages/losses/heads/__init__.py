"""Parts of losses on heads: rows of both at the same places, which of them learn an object, distances between boxes."""
