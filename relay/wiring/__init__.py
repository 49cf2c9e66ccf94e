"""How the parts of a relay are put together, and how it goes: what the composition root would be too long with."""
