"""Make it so: turn what the registry means into what serves.

`rollout` decides and moves traffic; `ray_serve`, `triton` and `local` are targets, `engine` is what runs in their replicas;
`guard` stands in front of the split and `monitoring` watches. `local` and `in_cluster` are the controller's two worlds, `cli`
wires them. Read `endpoint` (what a user declares) and `target` (what a platform must be able to do) first.
"""
