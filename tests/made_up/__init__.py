"""A package outside of the project: what a user writes to bring a map, a discrepancy, an attack, a norm, a defense, a measure, a protocol."""
