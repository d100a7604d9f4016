"""Carbon providers: one file per grid source."""
