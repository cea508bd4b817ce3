"""Learn: plan, read the pictures, train, resume."""
