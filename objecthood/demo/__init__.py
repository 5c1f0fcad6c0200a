"""The demo: an interactive page, served with PyTorch or built as a static site."""
