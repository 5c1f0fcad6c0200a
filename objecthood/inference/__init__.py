"""Weights at work on a user's images and videos: predictions, result files, the scikit-learn estimator."""
