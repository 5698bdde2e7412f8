"""How a run is run: the loop, state, mesh and sharding rules, checkpoints, metrics, guards.

Knows tasks by their protocol only (`tasks.Task`): which model, which loss and which method it is makes no
difference here. Start reading at `loop.train`.
"""
