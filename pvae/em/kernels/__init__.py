"""E-step kernels: the computations of an E-step on one chunk of data under one mixture.

The kernels return the same numbers. They differ in speed, in accuracy, and in whether they handle missing values.
Tensors are laid out as (components, batch): sums over the first dimension vectorise, sums over a short last one do not.
"""
