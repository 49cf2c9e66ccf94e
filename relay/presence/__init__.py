"""Presence: a device is online while its lease runs, and heartbeats renew it without touching a row."""
