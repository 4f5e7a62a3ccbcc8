"""The checks, a module for each part of the specification.

A module here is found by itself. What it registers with `moorage_conformance.checking.check` is part of the suite.
"""
