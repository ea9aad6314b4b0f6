"""The study of the truth: every method on functions whose right answer is known, and on a planted shortcut."""
