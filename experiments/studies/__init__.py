"""The studies: their runs, tables, figures and verdicts, and the committed results."""
