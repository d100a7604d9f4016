"""What the daemon itself costs, and how wrong it is, beside another exporter over the same invented cards."""
