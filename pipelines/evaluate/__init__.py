"""Measure a model and decide whether it may be promoted.

`score` holds what was measured, `gate` decides, `perplexity` and `tasks` measure. Read `gate` first.
"""
