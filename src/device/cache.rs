//! On-disk cache of compiled kernels.
