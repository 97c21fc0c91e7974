"""A question to the built-in model over a small table of product reviews: ``python -m spark_helium.demo``."""
