"""Old against new: paired differences of accuracy and latency, with intervals."""
