"""Floor 3: groups of endpoints, their pools, and the client's side of HTTP/1.1."""
