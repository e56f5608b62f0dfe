"""The course: lessons as plain Python sources, and what makes a reader's copies of them (`python -m course`)."""
