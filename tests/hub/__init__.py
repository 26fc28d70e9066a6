"""A local Hub that the real clients talk to over HTTP. See ``server.py`` for how to use it."""
