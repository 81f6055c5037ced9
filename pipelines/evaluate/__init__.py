"""Measure a model: `measure` loads it once, and the modules beside it each measure one thing.

What the numbers are is in `registry.scorecard`, and what they decide in `registry.gate`: whoever deploys decides again.
"""
