"""The daemon against Debian's own ZooKeeper, with traffic flowing through every fault."""
