"""Models as ONNX graphs: the stages of a model, the graphs, the comparison with PyTorch."""

from objecthood.export.export import export_onnx, export_parts

__all__ = ["export_onnx", "export_parts"]
