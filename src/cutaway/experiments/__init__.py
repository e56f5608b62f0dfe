"""Experiments: claims about models that a run can refute, and models built by hand to try methods on."""
