"""Move models and registries: import, export, archives."""
