"""Runtimes that can run an ONNX model, behind one Protocol."""
