"""Floor 4: the admin interface."""
