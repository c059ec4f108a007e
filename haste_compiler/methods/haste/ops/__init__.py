"""The HASTE convolution as custom operators, so that it can be captured, rewritten and lowered step by step.

``y = convolve(merge(x, slot), slot, coeff, offset, ...)`` with ``codes = hash(x, ...)`` and
``slot, coeff, offset = group(x, codes, ...)``. Convolutions that read the same windows share all but the last.
Each has a fake implementation and runs on any device that PyTorch has; none is differentiable.

In all of them ``padding`` is (top, bottom, left, right), ``settings`` is float32 (3,) as ``Settings.pack`` writes it,
and ``patch`` is the patch in output pixels as asked for; see ``ConvGeometry`` for PH, PW, qh and qw.
"""
