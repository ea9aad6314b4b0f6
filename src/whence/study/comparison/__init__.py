"""The comparison: every method on a classifier's pictures, judged, mapped over whole data sets, and set side by side."""
