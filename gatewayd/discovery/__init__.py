"""Floor 3: memberships that others keep: ZooKeeper's session, formats, and the journal of what was known."""
