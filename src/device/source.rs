//! The embedded tree `cuda/`.
