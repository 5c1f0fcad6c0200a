"""ONNX export: the stages of a model, their graphs, and the comparison with PyTorch."""

from objecthood.export.export import export_onnx, export_parts

__all__ = ["export_onnx", "export_parts"]
