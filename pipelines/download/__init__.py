"""Bring a model in, from wherever it is, as a plain safetensors checkpoint. Read `sources` first, then `fetcher`."""
