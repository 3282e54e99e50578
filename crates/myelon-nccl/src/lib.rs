//! Stands in front of NCCL.
