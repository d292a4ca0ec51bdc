"""Mechanism, events, accounting and the randomness they need. Loads no torch."""
