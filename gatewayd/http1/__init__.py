"""Floor 0: HTTP/1.1 (RFC 9110, RFC 9112) without I/O. Only this room reads or joins header lines."""
