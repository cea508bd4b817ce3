"""Pictures, class names, templates and splits."""
