"""Stand-ins for everything the daemon meets outside itself, each with its own exact account of what it showed."""
