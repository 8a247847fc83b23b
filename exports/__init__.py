"""Exported models for downstream use."""
