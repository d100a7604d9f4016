"""Namers: on whose behalf a process or a control group works."""
