"""Calibration of the guide on data that the model itself generates."""
