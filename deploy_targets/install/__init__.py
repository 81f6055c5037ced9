"""What an administrator applies once: the controller (`controller/`), its rights (`rights/`), a guard for each endpoint.

The folders are Kustomize's, without code; `example/` shows them put together, docs/install-kubernetes.md how.
"""
