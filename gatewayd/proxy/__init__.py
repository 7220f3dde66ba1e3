"""Floor 4: from a client's connection to the answer; the way of a request."""
