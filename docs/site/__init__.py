"""The documentation site: `python -m docs.site` writes it to build/docs/html."""
