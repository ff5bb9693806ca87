"""Latency where whole branches go."""
