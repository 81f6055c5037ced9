"""Make it so: turn what the registry means into what serves.

`rollout` decides and moves traffic, `ray_serve` and `local` are targets, `guard` stands in front of the split,
`cli` wires them. Read `endpoint` (what a user declares) and `target` (what a platform must be able to do) first.
"""
