"""Objectives: pure functions of outputs and targets → loss and metrics. No parameters, no state."""
