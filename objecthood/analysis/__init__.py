"""What scores mean: floors that need no learning."""
