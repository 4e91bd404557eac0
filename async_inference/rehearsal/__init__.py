"""Predict what a scaling plan does to waits, GPU-hours and cost, before anything is deployed."""
