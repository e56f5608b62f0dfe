"""The `cutaway` command: one file a verb, each a thin caller of the library."""

__all__: list[str] = []
