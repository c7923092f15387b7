"""Guesses at coming tokens, verified by the model itself: faster when right, never a different answer."""
