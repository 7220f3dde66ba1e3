"""Floor 0: every decision of the gateway, pure. Nothing here opens, reads, waits or logs."""
