"""Triton, run by KServe or on this machine: one model repository for each version, and what loads it.

`model_config` is what the repository says to Triton, `manifest` what KServe is told (both pure). `repository` puts a
version's repository into S3, with `model`, which runs inside Triton. What is said to a running one is in
`engine.generate_stream`.
"""
