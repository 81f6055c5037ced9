"""Operators as small writers of status: what KubeRay, KServe and a Gateway would say, in the pace that a test asks for.

`behaviour` says how far an operator is, `ray_service`, `inference_service` and `http_route` how it says so (all pure), and
`writers` writes it through the API. Nothing runs behind them: no pod starts and no request is routed.
"""
