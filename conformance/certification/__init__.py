"""Certification: the suite run on one existing class, and a verdict that somebody can act on."""
