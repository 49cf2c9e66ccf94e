"""The relay: stores messages durably, knows which devices are online, pushes to those that are not, syncs what is missing."""
