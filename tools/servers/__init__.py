"""Servers under test, and other processes that are measured."""
