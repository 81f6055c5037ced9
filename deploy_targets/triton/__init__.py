"""Triton, run by KServe: one model repository for each version, and the InferenceService that loads it.

`model_config` is what the repository says to Triton, `manifest` what KServe is told. Both are pure.
"""
