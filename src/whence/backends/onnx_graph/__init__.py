"""ONNX files: read without running anything in them, and their graphs as PyTorch operations."""
