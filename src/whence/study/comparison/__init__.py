"""The comparison: every method on a classifier's pictures, judged, mapped over data sets, and set side by side."""
