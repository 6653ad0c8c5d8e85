"""Numbers from numbers: the simulated world, encoders, estimator, calibration, metrics, reasons, policy, checks."""
