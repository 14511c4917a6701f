"""Ops that only move features."""
