"""Workload resolvers: who a process is. None yet: every share is the pool's."""
