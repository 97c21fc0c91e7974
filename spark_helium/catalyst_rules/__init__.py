"""The Catalyst extension: Scala sources, their resources, and the Python that compiles and finds the jar."""
