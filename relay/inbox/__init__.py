"""The inbox: accepting, reading, acking, the handshake, and everything else that happens under a user's one lock."""
