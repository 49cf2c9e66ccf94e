"""HTTP in: every route parses, calls one service method, and prints."""
