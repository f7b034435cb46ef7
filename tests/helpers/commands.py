"""Imported, it has made the command line: what is forked from there need not."""

from bipcore.cli.main import command_line

command_line()
