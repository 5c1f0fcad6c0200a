"""Files in and out: the gates for images, videos and arrays that may come from a stranger."""
