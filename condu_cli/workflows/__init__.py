"""Orchestration: joins registry, core, backbone, data and train. Prints nothing."""
