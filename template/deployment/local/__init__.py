"""The whole service on this machine: `invoke local-up` and its like."""
