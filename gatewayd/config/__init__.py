"""Floor 1: the configuration, from YAML text to typed sections; every error with its place."""
