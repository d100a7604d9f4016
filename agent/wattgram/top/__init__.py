"""The meter live in a terminal: what a daemon near or far says of itself, drawn anew every few seconds."""
