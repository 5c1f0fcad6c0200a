"""Prediction on images and videos: results, result files, the scikit-learn style estimator."""
