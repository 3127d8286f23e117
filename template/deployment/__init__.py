"""The deployment's own code: settings, and one module a concern. `tasks.py` only calls it."""
