"""Answers: predict and evaluate."""
