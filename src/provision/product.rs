//! What a device of a product should become.
