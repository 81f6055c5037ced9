"""The controller's side of a cluster: its states in ConfigMaps, its election by Lease, and the clients that go with them.

What it does to endpoints there is `kubernetes_targets`; how it runs is `run_controller`, as on one machine.
"""
