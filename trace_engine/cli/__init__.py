"""`trace-moe`: everything a page does, from a shell, with the same results and files."""

from trace_engine.cli.main import main

__all__ = ["main"]
