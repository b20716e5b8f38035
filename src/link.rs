//! How to talk to a device: everything the bay may ask of what is plugged in.
