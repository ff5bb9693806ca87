"""Declared changes of meaning: whole experts and tokens that go, with certificates of their own."""
