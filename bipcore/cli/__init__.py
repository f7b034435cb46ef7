"""The command line: one file a group of commands, their options, and what is printed.

Nothing but the app may stand above it; it may import everything else.
"""
