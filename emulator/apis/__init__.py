"""The handlers: one module a host, named after it."""
