"""What training keeps beside the weights: its log, its report, its guard against non-finite values."""
