"""A stack's config as one checked value, and the account that its AWS provider acts in."""
