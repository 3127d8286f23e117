"""Your own tasks: `invoke --list` shows them as own.NAME. The template never touches this file."""
