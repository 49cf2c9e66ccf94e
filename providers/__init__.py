"""Adapters for vendors' push services. Nothing in here knows of the relay."""
