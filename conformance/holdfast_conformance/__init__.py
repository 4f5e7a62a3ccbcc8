"""The conformance suite: what a backend of Holdfast guarantees, and how it is proved."""
