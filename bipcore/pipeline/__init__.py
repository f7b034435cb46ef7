"""From specs to results: the one orchestrator behind the command line and the pages.

It may import everything below it: `export`, `recovery`, `evaluation`, `pruning` and what they may.
"""
