//! Data-parallel training with Myelon.

fn main() {}
