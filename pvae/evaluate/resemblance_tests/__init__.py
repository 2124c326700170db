"""Tests of whether real data resemble data that the model generates."""
