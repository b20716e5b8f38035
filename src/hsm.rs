//! PKCS#11: one signer thread that signs only what was reserved, reopens after faults, and fails closed.
