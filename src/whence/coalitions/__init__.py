"""Coalitions: what a model says where some features are as in the input and the others are absent."""
