"""What the relay tells of itself: events of known fields, and metrics. Never bodies, tokens or secrets (safety SEC-12)."""
