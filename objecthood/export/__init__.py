"""Models as ONNX graphs: the stages of a model, the graphs, the comparison with PyTorch."""
