"""This machine as a target: real Ray Serve or a real tritonserver behind a real Envoy, and the stack around them.

`envoy` renders the split (pure), `adapter` and `triton_adapter` are each a `Target`, `home` knows files and secrets, `parts` how
each part is started, `stack` starts and stops them, `compose` has their clients. `demo` walks through the main job.
"""
