"""The library that server, partners and simulations share."""
