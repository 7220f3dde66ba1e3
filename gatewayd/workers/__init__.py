"""Several processes on the same listeners: the supervisor, its workers, and what they say to each other."""
