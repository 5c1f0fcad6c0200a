"""CLEVR-like scenes: arrangement, camera, light, rendering, and the data set of rendered scenes."""
