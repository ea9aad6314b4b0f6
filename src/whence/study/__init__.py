"""Studies: questions about attribution that are answered by measuring, as a table and a page."""
