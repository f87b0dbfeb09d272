//! One function per operation, each with its checks before its first effect.

pub(crate) mod instance;
pub(crate) mod pool;
pub(crate) mod scale;
pub(crate) mod tenant;
