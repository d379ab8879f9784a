"""Smaller engines: int8 and int4 ONNX graphs, GGUF types, calibration, and what each step costs in accuracy.

So far the Inductor's: the bundle's other engines hold the precisions that ``tam_edge.export`` writes itself.
"""
