"""What to do next: the one place that turns an error's reason and facts into a hint."""
