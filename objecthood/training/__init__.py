"""What the training loop keeps beside the weights: its log, its report, its guard against values that are not finite."""
