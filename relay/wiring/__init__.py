"""How the parts of a relay are put together from its settings, and how a relay goes: what `relay.app` is made of."""
