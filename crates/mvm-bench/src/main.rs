//! Benchmarks of `mvm` against the bare Firecracker sequence, in one run on one host.

mod bare;

fn main() {}
