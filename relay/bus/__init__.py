"""Wake-ups between the nodes of a relay: "look at this inbox". Any may be lost, doubled or late."""
