"""Telling backends: signed POSTs to their endpoints, repeated for days, and the same events by pull."""
