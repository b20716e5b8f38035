//! `station`: argv to one of the commands; the only place that prints a fault and picks an exit code.

fn main() {}
