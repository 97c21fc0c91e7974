"""Templated radix tree (TRT; the letters do not stand for TensorRT).

Here will live the tree of static prompt prefixes and placeholders, its cost model and the cache-aware
schedule: pure data structures that import no Spark, torch or vLLM. This release has none of them; the
daemon sends calls to the engine in the order in which they become ready.
"""
