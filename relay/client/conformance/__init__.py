"""Recorded conversations (`vectors/*.json`), to be played against a server, or as the server for a client under test."""
