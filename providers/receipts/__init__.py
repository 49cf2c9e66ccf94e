"""Vendors' delivery receipts: who may bring them, and what they say."""
