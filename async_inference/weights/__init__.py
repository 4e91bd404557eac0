"""Weights on S3, as they are: published once, apart from the code."""
