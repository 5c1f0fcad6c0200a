"""The demo: one page, served with PyTorch behind it or built as a static folder that needs no server."""
