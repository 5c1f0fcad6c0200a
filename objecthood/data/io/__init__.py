"""Readers and writers of images, videos and arrays, with limits for untrusted files."""
