//! Ratoon
fn main() {}
