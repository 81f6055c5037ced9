"""Operators as small writers: what KubeRay, KServe and a Gateway would say, in the pace that a test asks for.

`behaviour` says how far an operator is; `ray_service`, `inference_service` and `http_route` how it says so; `workloads` what
it makes (all pure), and `writers` writes it through the API. Nothing runs behind them: no pod starts and no request is routed.
"""
