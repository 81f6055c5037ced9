"""Which version answers a request: `traffic` (weights by version)."""
