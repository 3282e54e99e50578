//! The C interface of Myelon.
